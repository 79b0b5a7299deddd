"""What is installed and what was built, for bug reports and for the metadata of measurements."""

from __future__ import annotations

import importlib.metadata
import os
import platform
from pathlib import Path

from dna_fast import __version__

PACKAGES = (
    "numpy",
    "torch",
    "torchvision",
    "timm",
    "nvidia-dali-cuda130",
    "nvidia-dali-cuda120",
    "scipy",
    "safetensors",
    "onnx",
    "onnxscript",
    "onnxruntime",
    "tensorboard",
)


def facts() -> dict[str, str]:
    """Name -> finding, in a fixed order; nothing is imported that is not installed."""
    found = {
        "dna_fast": __version__,
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "processor": f"{_processor()}, {len(os.sched_getaffinity(0))} cores usable",
        "solver (dna_fast._solver)": _solver(),
        **_ops(),
    }
    found.update({name: installed for name in PACKAGES if (installed := version(name)) is not None})
    found["GPU"] = _gpu()
    return found


def version(package: str) -> str | None:
    """Of an installed package; None where it is not."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def dali_version() -> str | None:
    """Of NVIDIA DALI, whichever CUDA it is built for."""
    return next((found for name in PACKAGES if "dali" in name and (found := version(name)) is not None), None)


def _solver() -> str:
    try:
        from dna_fast import _solver
    except ImportError as error:
        return f"not built ({error}); build it with: pip install -e . --no-build-isolation"
    return f"built, {Path(_solver.__file__).name}"


def _ops() -> dict[str, str]:
    module = "torch ops (dna_fast._C)"
    if version("torch") is None:
        return {module: "not built: torch is not installed"}
    try:
        from dna_fast.ops import _library

        path, isa = _library.find(), _library.isa()
        sets, cuda = _library.cpu_kernels(path), _library.cuda_kernels(path)
        built = _library.built_with(path)
    except (ImportError, RuntimeError) as error:
        return {module: f"not usable ({error})"}
    if cuda.startswith("not built"):
        cuda += "; CUDA tensors go through torch's own operators"
    return {
        module: f"built for torch {built}",
        "CPU kernels": f"built for {', '.join(sets)}; running {isa}",
        "CUDA kernels": cuda,
    }


def _gpu() -> str:
    if version("torch") is None:
        return "not known: torch is not installed"
    import torch

    if not torch.cuda.is_available():
        return "none that torch can use" if torch.version.cuda else "none: this torch is built for the CPU only"
    name, (major, minor) = torch.cuda.get_device_name(), torch.cuda.get_device_capability()
    return f"{torch.cuda.device_count()} x {name}, compute capability {major}.{minor}, CUDA {torch.version.cuda}"


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or "unknown"
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "unknown")
