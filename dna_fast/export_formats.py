"""The formats: each writes a file or directory, and reads it back as what computes logits."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.machinery import SourceFileLoader
from pathlib import Path
from typing import Any

import timm
import torch
from torch import Tensor, nn

from dna_fast import __version__
from dna_fast._files import write_json, written_aside
from dna_fast.about import version
from dna_fast.export import ARCHITECTURE_FILE, MODEL_FILE, load_model, save_model
from dna_fast.export_source import RANDOM, Source
from dna_fast.export_timm import CONFIG_FILE, MODULE_FILE, hub_config, model_source

Run = Callable[[Tensor], Tensor]

INPUT, LOGITS, FEATURES = "images", "logits", "features"
_OLDEST_OPSET = 18
_TRACED_BATCH = 2  # neither 1, which torch.export takes for a constant, nor a batch that the check uses


@dataclass(frozen=True)
class Written:
    """What a format left: how to run it from its file, and what is to be said of it."""

    run: Run
    facts: Mapping[str, Any]


def metadata(source: Source) -> dict[str, str]:
    """What a file says of itself, as strings: safetensors and ONNX take no others."""
    how = source.preprocessing
    known = {
        "name": source.name,
        "architecture": source.arch.name,
        "architecture_json": json.dumps(source.arch.to_dict()),
        "weights": source.weights,
        "input_size": json.dumps(source.input_size),
        "dna_fast": __version__,
        "torch": str(torch.__version__),
        "timm": str(version("timm")),
    }
    if how is not None:
        known |= {"mean": json.dumps(how.mean), "std": json.dumps(how.std), "crop_pct": json.dumps(how.crop_pct)}
        known["interpolation"] = how.interpolation
    if source.classes is not None:
        known["classes"] = json.dumps(source.classes)
    return known


# ---- safetensors and timm -------------------------------------------------------------------------------------------


def write_safetensors(source: Source, directory: Path) -> Written:
    """`model.safetensors` and `architecture.json`, as `load_model` reads them."""
    save_model(source.model, source.arch, directory, metadata(source))
    model, _ = load_model(directory)
    return Written(model, {"tensors": len(source.model.state_dict())})


def write_timm(source: Source, directory: Path) -> Written:
    """A directory that needs timm alone: the code, the weights, timm's config.json, and the architecture."""
    save_model(source.model, source.arch, directory, metadata(source))
    write_json(directory / CONFIG_FILE, hub_config(source))
    with written_aside(directory / MODULE_FILE) as aside:
        aside.write_text(model_source(source), encoding="utf-8")
    module = _import_unregistered(directory / MODULE_FILE)
    model = module.create_model(pretrained=True, pretrained_cfg=module.default_cfgs[source.name])
    return Written(model.eval(), {"timm_name": source.name, "arch_def": source.arch.to_timm()})


def _import_unregistered(path: Path) -> Any:
    """The module in a file, from its text: no bytecode is read or left beside it.

    Its model is not registered: who exports and then imports it would be warned of overwriting.
    """
    loader = SourceFileLoader(f"{path.stem}_of_an_export", str(path))
    spec = importlib.util.spec_from_loader(loader.name, loader)
    assert spec is not None
    module, register = importlib.util.module_from_spec(spec), timm.models.register_model
    timm.models.register_model = lambda entry: entry
    try:
        exec(loader.source_to_code(path.read_bytes(), str(path)), module.__dict__)
    finally:
        timm.models.register_model = register
    return module


# ---- torch.export ---------------------------------------------------------------------------------------------------


def trace(source: Source) -> torch.export.ExportedProgram:
    """The model as a graph for any batch, without the places in files that torch notes at every node."""
    images = torch.zeros(_TRACED_BATCH, *source.input_size)
    batch = torch.export.Dim("batch", min=1)
    with torch.no_grad():
        program = torch.export.export(source.model, (images,), dynamic_shapes=({0: batch},))
    for node in program.graph.nodes:
        node.meta.pop("stack_trace", None)
    return program


def write_torch_export(source: Source, path: Path, program: torch.export.ExportedProgram) -> Written:
    """A `.pt2` that torch.export.load reads; a batch of any size."""
    with written_aside(path) as aside:
        torch.export.save(program, aside, extra_files={"metadata.json": json.dumps(metadata(source))})
    loaded: nn.Module = torch.export.load(path).module()
    return Written(loaded, {"input": [INPUT, ["batch", *source.input_size]]})


# ---- ONNX -----------------------------------------------------------------------------------------------------------


def require_onnx(opset: int | None) -> None:
    """Looks, before anything is written, whether ONNX can be.

    Raises:
        RuntimeError: packages are missing; the message has the command that installs them.
        ValueError: an opset that torch or onnx does not know.
    """
    missing = [name for name in ("onnx", "onnxscript", "onnxruntime") if importlib.util.find_spec(name) is None]
    if missing:
        raise RuntimeError(
            f"export onnx: needs {', '.join(missing)}, which is not installed; install it with: pip install 'dna_fast[onnx]'"
        )
    import onnx

    newest = onnx.defs.onnx_opset_version()
    if opset is not None and not _OLDEST_OPSET <= opset <= newest:
        raise ValueError(
            f"--opset: expected one from {_OLDEST_OPSET}, the oldest that torch's exporter writes, to {newest}, the newest of onnx "
            f"{onnx.__version__}; got {opset}"
        )


def write_onnx(source: Source, path: Path, program: torch.export.ExportedProgram, opset: int | None) -> Written:
    """An ONNX model, checked by onnx.checker; run by onnxruntime on the CPU.

    Args:
        opset: None takes the one that torch's exporter writes by default.

    Raises:
        RuntimeError: the exporter cannot convert to that opset, onnxruntime cannot load it.
    """
    import onnx
    import onnxruntime

    output = LOGITS if source.num_classes else FEATURES
    exported = torch.onnx.export(
        program, (), input_names=[INPUT], output_names=[output], opset_version=opset, dynamo=True, verbose=False
    )
    assert exported is not None
    proto = exported.model_proto
    written = next(entry.version for entry in proto.opset_import if entry.domain in ("", "ai.onnx"))
    if opset not in (None, written):
        raise RuntimeError(
            f"export onnx: --opset {opset}: torch {torch.__version__} could not convert what it wrote, opset {written}; leave --opset "
            "away"
        )
    onnx.helper.set_model_props(proto, metadata(source))
    onnx.checker.check_model(proto, full_check=True)
    with written_aside(path) as aside:
        onnx.save_model(proto, aside)
    try:
        session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    except Exception as error:  # its errors have no class in common but this
        raise RuntimeError(
            f"export onnx: onnxruntime {onnxruntime.__version__} cannot load opset {written} ({error}); ask for an older one with --opset"
        ) from error

    def run(images: Tensor) -> Tensor:
        return torch.from_numpy(session.run([output], {INPUT: images.numpy()})[0])

    facts = {"opset": written, "input": [INPUT, ["batch", *source.input_size]], "output": output}
    return Written(run, facts | {name: str(version(name)) for name in ("onnx", "onnxscript", "onnxruntime")})


def describe_random(source: Source) -> str | None:
    """A loud word where the weights are random; None elsewhere."""
    if source.weights != RANDOM:
        return None
    return (
        f"{source.origin}: it has no weights; what was exported holds RANDOM ones, of use for timing and plumbing only"
    )


FILES = {
    "timm": ("timm",),
    "torch-export": ("model.pt2",),
    "onnx": ("model.onnx",),
    "safetensors": (MODEL_FILE, ARCHITECTURE_FILE),
}
