"""What a profile runs: single layers and whole networks as timm builds them, plain or fused, ready to be called."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from dna_fast.architecture import Architecture
from dna_fast.export import build_model
from dna_fast.profile_layers import LayerKey, Setting
from dna_fast.space import Frame, MBConvSpec
from dna_fast.teacher_fused import fuse

TINY = 8  # channels of what stands around a layer in the network that is built for it


@dataclass(frozen=True)
class Runner:
    """Something to time.

    Args:
        call: runs it once, on an input of its own.
        kept: why it runs by plain torch where fused was asked for.
    """

    call: Callable[[], Any]
    kept: str = ""


def layer_runner(key: LayerKey, setting: Setting, device: torch.device) -> Runner:
    """One piece of a network, as `build_model` makes it.

    Raises:
        RuntimeError: the device refuses, for want of memory or of a kernel.
    """
    frame, spec = _surroundings(key)
    model = _model(Architecture("profile", frame, ((spec,),)), setting, device)
    kept = ""
    if setting.implementation == "fused":
        report = fuse(model, (3, frame.resolution, frame.resolution))
        kept = next(
            (layer.reason for layer in report.layers if layer.name == _FUSED[key.part]), "the op has no such part"
        )
    module: Any = model
    forward: dict[str, Callable[[Tensor], Tensor]] = {
        "stem": lambda x: module.blocks[0](module.bn1(module.conv_stem(x))),
        "mbconv": lambda x: module.blocks[1](x),
        "head": lambda x: module.forward_head(module.bn2(module.conv_head(x))),
    }
    x = _input((setting.batch, key.in_channels, key.in_size, key.in_size), setting, device)
    return Runner(_without_gradients(forward[key.part], x), kept)


# The layer that `fuse` may have replaced, by part; a head has none.
_FUSED = {"stem": "blocks.0.0", "mbconv": "blocks.1.0", "head": ""}


def network_runner(arch: Architecture, setting: Setting, device: torch.device) -> Runner:
    """A whole architecture."""
    model, size = _model(arch, setting, device), arch.frame.resolution
    if setting.implementation == "fused":
        fuse(model, (3, size, size))
    return Runner(_without_gradients(model, _input((setting.batch, 3, size, size), setting, device)))


def fused_kept_because(device: torch.device) -> str:
    """Why no layer can run fused on a device; empty if layers can."""
    key = LayerKey("mbconv", TINY, TINY, TINY, 3, 1, 0, TINY, "symmetric")
    return layer_runner(key, Setting(1, "float32", "fused"), device).kept


def _surroundings(key: LayerKey) -> tuple[Frame, MBConvSpec]:
    """The smallest frame and layer in whose network this piece stands."""
    if key.part == "stem":
        stem, head = (key.mid_channels, key.out_channels, key.stride), (TINY, TINY)
        resolution, se_ratio = key.in_size, key.se_channels / key.mid_channels
        spec = MBConvSpec(key.out_channels, TINY, TINY, 3, 1, 0)
    else:
        stem, resolution, se_ratio = (TINY, key.in_channels, 2), 2 * key.in_size, 0.25
        if key.part == "head":
            head = (key.mid_channels, key.out_channels)
            spec = MBConvSpec(key.in_channels, TINY, key.in_channels, 3, 1, 0)
        else:
            head, width = (TINY, TINY), (key.in_channels, key.mid_channels, key.out_channels)
            spec = MBConvSpec(*width, key.kernel, key.stride, key.se_channels)
    return Frame(*stem, *head, resolution, se_ratio, key.padding), spec


def _model(arch: Architecture, setting: Setting, device: torch.device) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        model = build_model(arch)
    dtype: torch.dtype = getattr(torch, setting.dtype)
    return model.eval().to(device, dtype, memory_format=torch.channels_last)  # type: ignore[call-overload, no-any-return]


def _input(shape: tuple[int, int, int, int], setting: Setting, device: torch.device) -> Tensor:
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    return x.to(device, getattr(torch, setting.dtype), memory_format=torch.channels_last)


def _without_gradients(forward: Callable[[Tensor], Tensor], x: Tensor) -> Callable[[], Tensor]:
    def call() -> Tensor:
        with torch.no_grad():
            return forward(x)

    return call


# ---- memory ---------------------------------------------------------------------------------------------------------


def peak_activation_bytes(runner: Runner, device: torch.device) -> int:
    """The most bytes of tensors alive at once during a call, weights and the input apart.

    On a GPU as torch's allocator counts them, what kernels take for themselves included; on the CPU what operators return.
    """
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        before = torch.cuda.memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        runner.call()
        torch.cuda.synchronize(device)
        return torch.cuda.max_memory_allocated(device) - before
    with _Alive() as alive:
        runner.call()
    return alive.peak


class _Alive(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Adds up the storages that operators return, for as long as they live."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.now = self.peak = 0
        self.seen: dict[int, Any] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        # What goes in was there before, or is counted already: views and in-place results share its storage.
        known = {t.untyped_storage()._cdata for t in tree_leaves((args, kwargs)) if isinstance(t, Tensor)}
        result = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            if isinstance(tensor, Tensor):
                storage = tensor.untyped_storage()
                if storage._cdata not in known and storage._cdata not in self.seen:
                    self._born(storage)
        return result

    def _born(self, storage: torch.UntypedStorage) -> None:
        address, size = storage._cdata, storage.nbytes()
        self.now += size
        self.peak = max(self.peak, self.now)

        def died(_: object) -> None:
            self.now -= size
            del self.seen[address]

        self.seen[address] = weakref.ref(storage, died)
