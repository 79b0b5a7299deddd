"""timm's registry: importing this adds the zoo (`timm.create_model("dna_a")`); `register` adds an architecture of one's own.

No weights of the zoo are published in timm's names, so pretrained=True is refused there.
"""

from __future__ import annotations

import keyword
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import timm
from timm.models import register_model
from torch import nn

from dna_fast.architecture import Architecture, from_zoo
from dna_fast.export import MODEL_FILE, load_model, timm_design
from dna_fast.export_timm import pretrained_cfg, read_hub_cfg
from dna_fast.timm_builder import create

default_cfgs: dict[str, dict[str, Any]] = {}  # timm looks pretrained_cfgs up here, by this name, when a model registers


def register(directory: str | Path, name: str, **cfg: Any) -> None:
    """Makes a found network a timm model: `timm.create_model(name)`, with its weights under pretrained=True.

    Args:
        directory: with `model.safetensors` and `architecture.json`: a run's models/<name>, or what `dna-fast export` wrote.
        name: in timm; a Python identifier that is not taken. The same name may be given to another directory later.
        cfg: entries of timm's pretrained_cfg that the directory does not know, such as mean, std, crop_pct, interpolation. An
            exported directory knows them (config.json); elsewhere timm's defaults, ImageNet's, stand.

    Raises:
        ValueError: a name that is no identifier or belongs to another model of timm; files that are missing or damaged.
    """
    if not name.isidentifier() or keyword.iskeyword(name):
        raise ValueError(f"timm model: the name must be a Python identifier (letters, digits, _), got {name!r}")
    if timm.is_model(name) and "file" not in default_cfgs.get(name, {}):
        raise ValueError(f"timm model: {name!r} is a model of timm already; choose another name")
    model, arch = load_model(directory)
    known = pretrained_cfg(arch, int(model.num_classes), None) | read_hub_cfg(Path(directory))  # type: ignore[arg-type]
    weights = {"file": str((Path(directory) / MODEL_FILE).absolute())}
    _register(name, timm_design(arch) | {"num_classes": model.num_classes}, {**known, **cfg, **weights})


def _register(name: str, design: Mapping[str, Any], cfg: dict[str, Any]) -> None:
    has_weights = "file" in cfg

    def entry(pretrained: bool = False, **options: Any) -> nn.Module:
        if pretrained and not (has_weights or options.get("pretrained_cfg") or options.get("pretrained_cfg_overlay")):
            raise RuntimeError(
                f"{name}: there are no weights to download; use pretrained=False, or train it (dna-fast retrain RUN --arch FILE) and "
                "register the directory that leaves (dna_fast.timm_models.register)"
            )
        return create(name, design, pretrained=pretrained, **options)

    entry.__name__ = entry.__qualname__ = name
    entry.__doc__ = f"{name}, built by dna_fast."
    default_cfgs[name] = cfg
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Overwriting .* in registry")  # `register` decided that it may be
        register_model(entry)


def _register_zoo() -> None:
    for name in ("dna_a", "dna_b", "dna_c", "dna_d"):  # efficientnet_b0 is timm's own
        arch: Architecture = from_zoo(name)
        _register(name, timm_design(arch), pretrained_cfg(arch, arch.frame.num_classes, None))


_register_zoo()
