"""What timm is given of a network: its pretrained_cfg, the config.json of a hub, and code that stands alone."""

from __future__ import annotations

import json
import pprint
from pathlib import Path
from typing import Any

from dna_fast import __version__, timm_builder
from dna_fast._files import read_json
from dna_fast.architecture import Architecture
from dna_fast.export import MODEL_FILE, timm_design
from dna_fast.export_source import Preprocessing, Source

CONFIG_FILE, MODULE_FILE = "config.json", "model.py"


def pretrained_cfg(arch: Architecture, num_classes: int, how: Preprocessing | None) -> dict[str, Any]:
    """What timm wants to know beside the layers. Where nobody knows the preprocessing, timm's defaults (ImageNet's) stand."""
    frame = arch.frame
    pixels = frame.stem_size
    for layers in arch.blocks:
        pixels = -(-pixels // layers[0].stride)
    found: dict[str, Any] = {
        "num_classes": num_classes,
        "input_size": (3, frame.resolution, frame.resolution),
        "pool_size": (pixels, pixels),
        "first_conv": "conv_stem",
        "classifier": "classifier",
    }
    if how is not None:
        found |= {"mean": how.mean, "std": how.std, "crop_pct": how.crop_pct, "interpolation": how.interpolation}
    return found


def hub_config(source: Source) -> dict[str, Any]:
    """config.json as timm writes it for a hub and reads it from `local-dir:`; the name must be registered there."""
    config: dict[str, Any] = {
        "architecture": source.name,
        "num_classes": source.num_classes,
        "num_features": source.arch.frame.head_channels,
        "global_pool": "avg",
        "pretrained_cfg": pretrained_cfg(source.arch, source.num_classes, source.preprocessing),
        "dna_fast": {"version": __version__, "origin": source.origin, "weights": source.weights},
    }
    if source.classes is not None:
        config["label_names"] = list(source.classes)
    return config


def read_hub_cfg(directory: Path) -> dict[str, Any]:
    """The pretrained_cfg of a directory that `hub_config` was written to; empty elsewhere.

    Raises:
        ValueError: a config.json without one.
    """
    path = directory / CONFIG_FILE
    if not path.exists():
        return {}
    config = read_json(path)
    if not isinstance(config, dict) or not isinstance(config.get("pretrained_cfg"), dict):
        raise ValueError(f"{path}: expected timm's config.json with a pretrained_cfg, as dna-fast export writes it")
    return dict(config["pretrained_cfg"])


def model_source(source: Source) -> str:
    """A module that needs torch and timm alone; importing it registers the network under `source.name`."""
    builder = Path(timm_builder.__file__).read_text(encoding="utf-8")
    body = builder[builder.index(_FIRST_IMPORT) + len(_FIRST_IMPORT) :]  # behind its docstring
    cfg = pretrained_cfg(source.arch, source.num_classes, source.preprocessing)
    return _MODULE.format(
        origin=json.dumps(source.origin)[1:-1],
        version=__version__,
        weights=source.weights,
        name=source.name,
        weights_file=MODEL_FILE,
        body=body.strip(),
        design=pprint.pformat(
            timm_design(source.arch) | {"num_classes": source.num_classes}, width=120, sort_dicts=False
        ),
        cfg=pprint.pformat(cfg, width=110, sort_dicts=False),
    )


_FIRST_IMPORT = "from __future__ import annotations\n"

_MODULE = '''"""{name}: written by dna_fast {version} from {origin}; {weights} weights. It needs torch and timm only.

    import timm, model  # this file: it registers the network
    network = timm.create_model("{name}", pretrained=True)  # the weights in {weights_file} beside it

`features_only=True`, num_classes, in_chans, drop_rate and drop_path_rate work as with every model of timm.
"""

from __future__ import annotations

from pathlib import Path

from timm.models import register_model
{body}


DESIGN: dict[str, Any] = {design}

default_cfgs = {{
    "{name}": {{
        "file": str(Path(__file__).with_name("{weights_file}")),
        **{cfg},
    }}
}}


@register_model
def {name}(pretrained: bool = False, **options: Any) -> nn.Module:
    """The network; timm's entry point."""
    return create("{name}", DESIGN, pretrained=pretrained, **options)


create_model = {name}
'''
