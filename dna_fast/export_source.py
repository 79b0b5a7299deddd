"""What is exported: from a run, a saved model, an architecture file or the zoo; with images to check it on."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import safe_open
from torch import Tensor, nn
from torch.nn import functional as F

from dna_fast._files import read_json
from dna_fast.architecture import Architecture, from_zoo, zoo
from dna_fast.export import ARCHITECTURE_FILE, MODEL_FILE, build_model, load_model
from dna_fast.export_check import BATCHES

if TYPE_CHECKING:
    from dna_fast.data import EvalTransform

TRAINED, SAVED, RANDOM = "trained", "saved", "random"


@dataclass(frozen=True)
class Preprocessing:
    """How images become what the network reads: shorter side to size / crop_pct, centre crop, (x - mean) / std of x in 0..1."""

    mean: tuple[float, ...]
    std: tuple[float, ...]
    crop_pct: float
    interpolation: str


@dataclass(frozen=True)
class Source:
    """A network to export.

    Args:
        name: of the model in timm and in metadata; a Python identifier.
        origin: where it comes from, in words.
        arch: its architecture.
        model: in evaluation mode, float32, on the CPU; weights in torch's own layout, which every format can hold.
        weights: "trained", in a run; "saved", by who knows whom; or "random".
        images: [N, 3, H, W] real images as the network reads them; images_from says which.
        preprocessing: None where nobody knows.
        classes: their names in the order of the logits; None where nobody knows.
        training: accuracy and history that lie beside the weights.
    """

    name: str
    origin: str
    arch: Architecture
    model: nn.Module
    weights: str
    images: Tensor
    images_from: str
    preprocessing: Preprocessing | None = None
    classes: tuple[str, ...] | None = None
    training: dict[str, Any] = field(default_factory=dict)

    @property
    def num_classes(self) -> int:
        return int(self.model.num_classes)  # type: ignore[arg-type]

    @property
    def input_size(self) -> tuple[int, int, int]:
        return 3, self.arch.frame.resolution, self.arch.frame.resolution


def find_source(source: str, model: str | None = None) -> Source:
    """Loads what a SOURCE means.

    Args:
        source: a run directory (its models/found), a directory with model.safetensors and architecture.json, an
            architecture file, or a name of the zoo. The last two have no weights: random ones are drawn, seed 0.
        model: of a run, another directory of its models.

    Raises:
        ValueError: none of these, or a model that the run does not have; the message says what it has.
    """
    path = Path(source)
    if (path / "config.yaml").is_file():
        return _of_run(path, model or "found")
    if model is not None:
        raise ValueError(f"--model {model}: goes with a run directory, and {source} is none (no config.yaml)")
    if (run := path.absolute().parent.parent).joinpath(
        "config.yaml"
    ).is_file() and path.absolute().parent.name == "models":
        return _of_run(run, path.name)
    if path.is_dir():
        network, arch = load_model(path)
        return _finish(arch, network, f"directory {source}", _saved_weights(path), training=_training(path))
    if path.suffix == ".json":
        arch, origin = Architecture.load(path), f"architecture file {source}"
    elif source in zoo():
        arch, origin = from_zoo(source), f"zoo {source}"
    else:
        raise ValueError(
            f"export: expected a run directory, a directory with {MODEL_FILE} and {ARCHITECTURE_FILE}, an architecture file (.json) or "
            f"one of {', '.join(zoo())}; got {source!r}, which is none of them"
        )
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        return _finish(arch, build_model(arch), origin, RANDOM)


def identifier(name: str) -> str:
    """A name as Python and timm can have it: letters, digits and underscores, no digit first."""
    plain = "".join(c if c.isascii() and c.isalnum() else "_" for c in name)
    return plain if plain and not plain[0].isdigit() else f"_{plain}"


def _of_run(directory: Path, name: str) -> Source:
    from dna_fast.pipeline import Run

    path = directory / "models" / name
    if not path.is_dir():
        found = sorted(p.parent.name for p in (directory / "models").glob(f"*/{MODEL_FILE}"))
        has = f"it has {', '.join(found)} (--model NAME)" if found else "it has none"
        raise ValueError(f"{path}: no such model in this run, {has}; train it with: dna-fast retrain {directory}")
    network, arch = load_model(path)
    data = Run.open(directory).images
    loader = data.loader(data.evaluation, max(BATCHES), training=False)
    images = next(iter(loader.epoch(0))).images.cpu()
    transform: EvalTransform = loader.transform  # type: ignore[assignment]  # a loader that does not train has no other
    return _finish(
        arch,
        network,
        f"run {directory}, model {name}",
        TRAINED,
        images=images,
        images_from=f"evaluation images of {directory}",
        preprocessing=Preprocessing(
            tuple(transform.mean), tuple(transform.std), transform.crop_pct, transform.interpolation
        ),
        classes=tuple(data.train.classes),
        training=_training(path),
    )


def _finish(
    arch: Architecture, model: nn.Module, origin: str, weights: str, *, images: Tensor | None = None, **known: Any
) -> Source:
    """Normalises the model's layout and takes the embedded digits where there are no images of its own."""
    model = model.eval().to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
    if images is None:
        images, known["images_from"] = digit_images(arch.frame.resolution), "embedded digits"
    return Source(f"dna_fast_{identifier(arch.name)}", origin, arch, model, weights, images, **known)


def _saved_weights(directory: Path) -> str:
    """What the file says of its weights: random ones stay random when they are exported again."""
    with safe_open(directory / MODEL_FILE, framework="pt") as file:
        return str((file.metadata() or {}).get("weights", SAVED))


def _training(directory: Path) -> dict[str, Any]:
    path = directory / "training.json"
    return dict(read_json(path)) if path.exists() else {}


def digit_images(resolution: int) -> Tensor:
    """[3, 3, resolution, resolution]: the first of the embedded handwritten digits, in -1..1."""
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise RuntimeError(
            "export: the digits it is checked on need scikit-learn; install it with: pip install scikit-learn"
        ) from error
    ink = torch.from_numpy(load_digits().images[: max(BATCHES)]).float()[:, None]  # 0..16
    grown = F.interpolate(ink, size=(resolution, resolution), mode="bicubic", align_corners=False)
    return (grown / 8 - 1).clamp(-1, 1).expand(-1, 3, -1, -1).contiguous()
