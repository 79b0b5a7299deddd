"""Runs the MBConv layers of a timm network with ops.mbconv, while its modules, weights and hooks stay what they are.

A fused layer keeps all its modules and gets a forward of its own, so that names, the state dict and hooks on the layer or
on anything around it are as before. Only what lies inside the layer is no longer called.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from dna_fast.ops import Affine, MBConvShape, MBConvWeights, mbconv

DTYPES = (torch.float32, torch.bfloat16)

# A fused layer may be this many times as far from the layer in float64 as the layer itself is, root mean square. Both sum
# the same terms in float32, in another order; what is really wrong (a tap, a weight, a border) is off 10^4 times as much.
ERROR_RATIO = 8.0

# float64 is slow: larger inputs are compared on a corner of this many rows and columns, one less where they are odd, as
# "same" padding looks at that. It holds more than one of the op's tiles of 256 pixels.
CORNER = 18


@dataclass(frozen=True)
class LayerFusion:
    """What became of one layer.

    Attributes:
        name: of the module.
        shape: the layer; None where it is none that the op can run.
        error: distance from the layer in float64, root mean square, relative to its output; None: not measured.
        own_error: the same of the layer before.
        reason: why it was left alone; empty where it was fused.
    """

    name: str
    shape: MBConvShape | None
    error: float | None
    own_error: float | None
    reason: str


@dataclass(frozen=True)
class FusionReport:
    """What `fuse` did to every MBConv layer of a network, in the network's order."""

    layers: tuple[LayerFusion, ...]

    @property
    def fused(self) -> tuple[str, ...]:
        """Names of the layers that run fused."""
        return tuple(layer.name for layer in self.layers if not layer.reason)

    @property
    def kept(self) -> dict[str, str]:
        """Names of the others, and why."""
        return {layer.name: layer.reason for layer in self.layers if layer.reason}

    def summary(self) -> str:
        """How many layers run fused, and which do not, why."""
        kept = "".join(f"\n  {name} stays: {reason}" for name, reason in self.kept.items())
        return f"{len(self.fused)} of {len(self.layers)} MBConv layers run fused on the CPU{kept}"

    def table(self) -> str:
        """One line per layer: its shape and its error beside the error that it had before, or why it was left alone."""
        rows: list[tuple[str, ...]] = [("layer", "kernel", "channels", "error", "before", "")]
        for layer in self.layers:
            kernel = channels = ""
            if (s := layer.shape) is not None:
                kernel = f"{s.kernel}x{s.kernel}/{s.stride}"
                channels = f"{s.in_channels}-{s.mid_channels}-{s.out_channels}"
            errors = ("" if e is None else f"{e:.1e}" for e in (layer.error, layer.own_error))
            rows.append((layer.name, kernel, channels, *errors, f"kept: {layer.reason}" if layer.reason else "fused"))
        widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
        return "\n".join(
            "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
        )


@torch.no_grad()
def fuse(model: nn.Module, input_size: Sequence[int]) -> FusionReport:
    """Lets ops.mbconv run every InvertedResidual and DepthwiseSeparableConv of a timm network that it can run.

    Each is compared with itself in float64 on (a corner of) what it meets when a random image passes. A fused layer runs fused
    - in evaluation mode, on the CPU, in float32 or bfloat16; under autocast to bfloat16 all of it in bfloat16;
    - where no gradient is asked for, nothing inside has a hook, and neither torch.jit nor, before `freeze`, torch.compile traces;
    and as before everywhere else, on other devices too. Its output is channels-last whatever its input is. Weights, and
    modules inside, may change: the next call sees it. Two changes leave no trace and need `fuse` again: those in place that
    go around autograd (``weight.data.mul_(2)``), and those in place of inference tensors. A copied, pickled or moved
    model stays fused.

    Args:
        model: in evaluation mode; its layers are changed in place.
        input_size: (channels, height, width) of the image.

    Returns:
        What was fused, how far it is from what it replaces, and what was left alone why.

    Raises:
        ValueError: a model in training mode.
    """
    if model.training:
        raise ValueError("fuse: expected a model in evaluation mode, got training mode; call model.eval()")
    results: dict[str, LayerFusion] = {}
    fits: dict[str, FusedForward] = {}
    for name, layer in _mbconv_layers(model):
        try:
            shape = shape_of(layer)
            _check_surroundings(layer)
            fits[name] = FusedForward(layer)
            results[name] = LayerFusion(name, shape, None, None, "a pass does not reach it")
        except Misfit as misfit:
            results[name] = LayerFusion(name, None, None, None, str(misfit))

    def compare(name: str, layer: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        measured = _compared(results[name], fits[name], args[0])
        worst = results[name].error  # of several calls; nan is worse than any number
        if worst is None or (not math.isnan(worst) and not (measured.error or 0.0) <= worst):
            results[name] = measured

    _watched_pass(model, {name: partial(compare, name) for name in fits}, input_size)
    for name, forward in fits.items():
        if not results[name].reason:
            forward.layer.forward = forward  # found before the class's, and no child: names stay as they are
    return FusionReport(tuple(results.values()))


def freeze(model: nn.Module) -> None:
    """Promises that the weights of fused layers do not change any more, so that graphs of torch.compile hold the op, too."""
    for module in model.modules():
        forward = module.__dict__.get("forward")
        if isinstance(forward, FusedForward):
            forward.freeze()


def _watched_pass(
    model: nn.Module, hooks: dict[str, Callable[[nn.Module, tuple[Any, ...], Any], None]], input_size: Sequence[int]
) -> None:
    if not hooks:
        return
    handles = [model.get_submodule(name).register_forward_hook(hook) for name, hook in hooks.items()]
    dtype = next(p.dtype for p in model.parameters() if p.is_floating_point())
    image = torch.randn((1, *input_size), generator=torch.Generator().manual_seed(0)).to(dtype)
    try:
        with torch.autocast("cpu", enabled=False):
            model(image.contiguous(memory_format=torch.channels_last))
    finally:
        for handle in handles:
            handle.remove()


def _compared(before: LayerFusion, forward: FusedForward, x: Tensor) -> LayerFusion:
    """Both forms of one layer against the same layer in float64."""
    layer = forward.layer
    height, width = (size if size <= CORNER else CORNER - size % 2 for size in x.shape[2:])
    x = x[:, :, :height, :width]
    exact = type(layer).forward(deepcopy(layer).double(), x.double())
    size = exact.square().mean().sqrt().item()

    def error(y: Tensor) -> float:
        return float((y.double() - exact).square().mean().sqrt().item() / max(size, torch.finfo(torch.float32).tiny))

    fused, own = error(forward(x)), error(type(layer).forward(layer, x))
    # No answer is closer than half a unit in the last place, which is exactly right.
    is_close = fused <= ERROR_RATIO * max(own, torch.finfo(x.dtype).eps / 2)
    reason = "" if is_close else f"its error would be {fused:.1e} where it was {own:.1e}"
    return LayerFusion(before.name, before.shape, fused, own, reason)


# ---- a fused layer --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Packed:
    state: tuple[Any, ...]  # of the tensors that it was made from
    weights: MBConvWeights
    norms: tuple[Affine, ...]


class FusedForward:
    """A layer's forward: the fused op where it applies, else what the layer's class does.

    Args:
        layer: an InvertedResidual or DepthwiseSeparableConv that `shape_of` understands.
    """

    def __init__(self, layer: nn.Module) -> None:
        self.layer = layer
        self._packed: dict[torch.dtype, _Packed] = {}
        self._frozen: dict[torch.dtype, _Packed] = {}

    def __getstate__(self) -> dict[str, Any]:
        return {"layer": self.layer, "_packed": {}, "_frozen": {}}  # a copy packs its own weights when it is called

    def __call__(self, x: Tensor) -> Tensor:
        packed = self._packed_for(x)
        if packed is None:
            original: Tensor = type(self.layer).forward(self.layer, x)
            return original
        x = x.to(packed.weights.dtype).contiguous(memory_format=torch.channels_last)
        return mbconv(x, packed.weights, packed.norms)

    def _packed_for(self, x: Tensor) -> _Packed | None:
        """What to run the op with; None where the original has to run."""
        if (
            torch.compiler.is_compiling()
        ):  # states cannot be told apart in a graph: only what was promised not to change
            dtype = self._dtype(x) if self._frozen and x.device.type == "cpu" and not torch.is_grad_enabled() else None
            return None if dtype is None else self._frozen.get(dtype)
        if torch._C._get_tracing_state() is not None or type(x) is not Tensor or x.device.type != "cpu":
            return None
        dtype, state = self._dtype(x), _state(self.layer)
        if dtype is None or state is None or (torch.is_grad_enabled() and (x.requires_grad or _may_learn(self.layer))):
            return None
        packed = self._packed.get(dtype)
        if packed is None or packed.state != state:
            try:
                packed = _pack(self.layer, dtype, state)
            except Misfit:  # someone has rebuilt it
                return None
            self._packed[dtype] = packed
        # Whatever is wrong with x is for the original to say.
        return (
            packed if x.dim() == 4 and x.shape[1] == packed.weights.shape.in_channels and 0 not in x.shape[2:] else None
        )

    def freeze(self) -> None:
        """Packs what graphs of torch.compile are to hold, for every dtype that may be asked for."""
        state = _state(self.layer)
        if state is not None:
            self._frozen = {dtype: _pack(self.layer, dtype, state) for dtype in DTYPES}

    def _dtype(self, x: Tensor) -> torch.dtype | None:
        own: torch.dtype = self.layer.get_submodule("conv_dw").weight.dtype  # type: ignore[union-attr, assignment]
        if torch.is_autocast_enabled("cpu"):
            is_known = own in DTYPES and x.dtype in DTYPES and torch.get_autocast_dtype("cpu") == torch.bfloat16
            return torch.bfloat16 if is_known else None
        return own if own == x.dtype and own in DTYPES else None


# What a module computes with besides tensors.
_SETTINGS = ("eps", "stride", "padding", "dilation", "groups", "has_skip")


def _state(layer: nn.Module) -> tuple[Any, ...] | None:
    """Tells one state of a layer from another; None if it trains, is not on the CPU or has hooks inside."""
    state: list[Any] = []
    for module in layer.modules():
        if module.training or (module is not layer and (module._forward_hooks or module._forward_pre_hooks)):
            return None
        state += [type(module), *(getattr(module, name, None) for name in _SETTINGS)]
        for tensor in (*module._parameters.values(), *module._buffers.values()):
            if tensor is None:
                continue
            if tensor.device.type != "cpu":
                return None
            # Changes in place count versions, assignments (.to, .data = ..., load with assign) change the address.
            state += [tensor.data_ptr(), 0 if tensor.is_inference() else tensor._version, tensor.dtype]
    return tuple(state)


def _may_learn(layer: nn.Module) -> bool:
    return any(parameter.requires_grad for parameter in layer.parameters())


def _pack(layer: nn.Module, dtype: torch.dtype, state: tuple[Any, ...]) -> _Packed:
    shape = shape_of(layer)
    norms: list[Any] = [layer.get_submodule(f"bn{i + 1}") for i in range(2 + shape.has_expansion)]
    folded = (Affine.fold(n.weight, n.bias, n.running_mean, n.running_var, n.eps) for n in norms)
    return _Packed(state, MBConvWeights.of(shape, layer, dtype), tuple(folded))


# ---- which layers fit -----------------------------------------------------------------------------------------------


class Misfit(ValueError):
    """A layer that is no MBConv as the op runs it; says why."""


def _mbconv_layers(model: nn.Module) -> list[tuple[str, nn.Module]]:
    from timm.models._efficientnet_blocks import DepthwiseSeparableConv, InvertedResidual

    kinds = (DepthwiseSeparableConv, InvertedResidual)
    return [(name, module) for name, module in model.named_modules() if isinstance(module, kinds)]


def _require(condition: bool, reason: str) -> None:
    if not condition:
        raise Misfit(reason)


def _check_surroundings(layer: nn.Module) -> None:
    """Where the layer is now; may change later, and is looked at again in every call."""
    devices = {tensor.device.type for tensor in (*layer.parameters(), *layer.buffers())}
    _require(devices == {"cpu"}, f"there is no kernel for {', '.join(sorted(devices))} yet")
    dtypes = {parameter.dtype for parameter in layer.parameters()}
    _require(dtypes <= set(DTYPES), f"its dtype is {', '.join(sorted(map(str, dtypes)))}")
    hooked = [n for n, m in layer.named_modules() if n and (m._forward_hooks or m._forward_pre_hooks)]
    _require(not hooked, f"{', '.join(hooked)} inside has a hook or is a cut")
    _require(not any(m.training for m in layer.modules()), "something inside is in training mode")
    forward = layer.__dict__.get("forward")
    _require(forward is None or isinstance(forward, FusedForward), "its forward was replaced")


def shape_of(layer: nn.Module) -> MBConvShape:
    """The shape of a timm InvertedResidual or DepthwiseSeparableConv.

    Raises:
        Misfit: the op does not compute what the layer computes.
    """
    from timm.layers.drop import DropPath
    from timm.models._efficientnet_blocks import DepthwiseSeparableConv, InvertedResidual

    block: Any = layer
    kind, has_expansion = type(block), type(block) is InvertedResidual
    _require(kind in (InvertedResidual, DepthwiseSeparableConv), f"{kind.__name__} is another layer")
    _require(block.conv_s2d is None, "it begins with space to depth")
    _require(type(block.aa) is nn.Identity, f"aa is {type(block.aa).__name__}")
    _require(type(block.drop_path) in (nn.Identity, DropPath), f"drop_path is {type(block.drop_path).__name__}")
    depthwise, last = block.conv_dw, block.conv_pwl if has_expansion else block.conv_pw
    if has_expansion:
        _check_pointwise("conv_pw", block.conv_pw)
    _check_pointwise("conv_pwl" if has_expansion else "conv_pw", last)
    padding = _depthwise_padding(depthwise)
    for number in range(1, 3 + has_expansion):
        _check_norm(
            f"bn{number}", block.get_submodule(f"bn{number}"), nn.SiLU if number <= 1 + has_expansion else nn.Identity
        )
    try:
        return MBConvShape(
            in_channels=block.conv_pw.in_channels if has_expansion else depthwise.in_channels,
            mid_channels=depthwise.out_channels,
            out_channels=last.out_channels,
            kernel=depthwise.kernel_size[0],
            stride=depthwise.stride[0],
            se_channels=_squeezed_channels(block.se),
            padding=padding,
            has_expansion=has_expansion,
            has_residual=block.has_skip,
        )
    except ValueError as error:  # a kernel or stride that the op does not have
        raise Misfit(str(error).removeprefix("MBConvShape: ")) from error


def _check_conv(name: str, conv: Any) -> None:
    from timm.layers.conv2d_same import Conv2dSame

    _require(type(conv) in (nn.Conv2d, Conv2dSame), f"{name} is {type(conv).__name__}")
    _require(conv.bias is None, f"{name} has a bias")
    _require(conv.padding_mode == "zeros", f"{name} pads with {conv.padding_mode}")
    square = all(len(set(pair)) == 1 for pair in (conv.kernel_size, conv.stride, conv.dilation))
    _require(square, f"{name} differs between rows and columns")
    _require(conv.dilation[0] == 1, f"{name} has dilation {conv.dilation[0]}")


def _check_pointwise(name: str, conv: Any) -> None:
    _check_conv(name, conv)
    _require(conv.kernel_size[0] == 1 and conv.stride[0] == 1, f"{name} is not 1x1 with stride 1")
    _require(conv.groups == 1, f"{name} has {conv.groups} groups")
    _require(tuple(conv.padding) == (0, 0), f"{name} is padded by {conv.padding}")


def _depthwise_padding(conv: Any) -> str:
    """The padding of conv_dw, after a look at the rest of it."""
    from timm.layers.conv2d_same import Conv2dSame

    _check_conv("conv_dw", conv)
    _require(
        conv.groups == conv.in_channels == conv.out_channels,
        f"conv_dw has {conv.groups} groups for {conv.in_channels} channels",
    )
    if type(conv) is Conv2dSame:
        return "same"
    half = conv.kernel_size[0] // 2
    _require(conv.padding in ((half, half), half), f"conv_dw is padded by {conv.padding}")
    return "symmetric"


def _check_norm(name: str, norm: Any, act: type[nn.Module]) -> None:
    from timm.layers.norm_act import BatchNormAct2d

    _require(type(norm) is BatchNormAct2d, f"{name} is {type(norm).__name__}")
    is_fixed = norm.running_mean is not None and norm.running_var is not None and norm.track_running_stats
    _require(is_fixed, f"{name} has no running statistics to use")
    _require(type(norm.act) is act, f"{name} is followed by {type(norm.act).__name__}, not {act.__name__}")
    _require(type(norm.drop) is nn.Identity, f"{name} is followed by {type(norm.drop).__name__}")


def _squeezed_channels(se: Any) -> int:
    """The reduced width of squeeze-excite, 0 without."""
    from timm.layers.activations import Sigmoid
    from timm.models._efficientnet_blocks import SqueezeExcite

    if type(se) is nn.Identity:
        return 0
    _require(type(se) is SqueezeExcite, f"se is {type(se).__name__} of another kind")
    _require(type(se.act1) is nn.SiLU, f"se uses {type(se.act1).__name__}, not SiLU")
    _require(type(se.gate) in (nn.Sigmoid, Sigmoid), f"se gates with {type(se.gate).__name__}, not Sigmoid")
    return int(se.conv_reduce.out_channels)
