"""Whether an export computes what the torch model does: against float64, with a tolerance that rounding alone explains."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

UNIT = 2.0**-24  # a float32 rounding, as a share of what is rounded
# A convolution's roundings beside its additions: batch norm folded into its weights costs a root, a quotient, a product.
FOLDED = 4
# Of batch norm, as a share of the sizes of its three terms.
NORM = 4
# A sigmoid is approximated to a few units of its largest value, 1, not of its own: libraries use a rational function.
SIGMOID = 8
# Two draws of the roundings' signs show how far they carry; the worst element of another draw may lie as far again.
DRAWS, MARGIN = 2, 2.0
# Neither is the batch that a model is traced with, so one that was frozen shows.
BATCHES = (1, 3)

aten = torch.ops.aten


@dataclass(frozen=True)
class Expected:
    """What an export must give for some images.

    Args:
        name: of the images, for messages: "random 3".
        images: [N, 3, H, W] float32.
        logits: [N, classes] float64, of the model in float64.
        tolerance: the largest absolute error of an element that float32 rounding explains.
        torch_error: of the torch model in float32.
    """

    name: str
    images: Tensor
    logits: Tensor
    tolerance: float
    torch_error: float


@torch.no_grad()
def expect(model: nn.Module, images: Mapping[str, Tensor]) -> list[Expected]:
    """Computes what exports of a model are compared with.

    The tolerance follows from accumulation depth. Each of the k roundings of a float32 sum of products is at most 2^-24 of a
    partial sum, and no partial sum exceeds the sum s of the products' absolute values. Roundings behave as independent and without
    bias, so a sum's error has a deviation of at most sqrt(k / 3) 2^-24 s, whatever its order; sqrt(k) 2^-24 s is taken. The other
    operations err by the shares above. Errors of that size, with random signs, are added to every operation of the float64 model;
    what they do to the logits, through this network with these weights, is the tolerance. Real partial sums are far below s, so real
    errors stay well below, too. (k instead of its root holds without any assumption, but allows errors in deep networks that are no
    longer small beside the logits.)

    Args:
        model: in evaluation mode, float32, on the CPU.
        images: by kind; of each the first 1 and the first 3 (`BATCHES`) are taken.

    Raises:
        ValueError: logits that are not finite.

    Source: N. J. Higham, T. Mary, A new approach to probabilistic rounding error analysis, SIAM J. Sci. Comput. 41 (2019).
    """
    exact_model = copy.deepcopy(model).double()
    found = []
    for kind, available in images.items():
        for batch in BATCHES:
            x = available[:batch].contiguous()
            exact = exact_model(x.double())
            if not exact.isfinite().all():
                raise ValueError(
                    "export: the model's logits are not finite; its weights are damaged: retrain the model"
                )
            spread = 0.0
            for draw in range(DRAWS):
                with _Rounding(seed=draw):
                    spread = max(spread, _distance(exact_model(x.double()), exact))
            found.append(Expected(f"{kind} {batch}", x, exact, MARGIN * spread, _distance(model(x), exact)))
    return found


def check(name: str, run: Callable[[Tensor], Tensor], expected: list[Expected]) -> list[dict[str, Any]]:
    """Compares an export, as it was read back from its file, with what is expected.

    Args:
        name: of the format, for messages.
        run: images [N, 3, H, W] float32 -> logits [N, classes].

    Returns:
        For every batch: images, the largest error, the tolerance, torch's own float32 error, all absolute, and the logits'
        root mean square to see them by.

    Raises:
        RuntimeError: a shape that differs, an error above the tolerance.
    """
    records = []
    for case in expected:
        with torch.no_grad():
            logits = run(case.images)
        if logits.shape != case.logits.shape:
            raise RuntimeError(
                f"export {name}: {case.name} images gave shape {list(logits.shape)}, expected {list(case.logits.shape)}"
            )
        error = _distance(logits, case.logits)
        if not error <= case.tolerance:  # nan is not
            raise RuntimeError(
                f"export {name}: on {case.name} images the logits are off by {error:.2e}, rounding explains at most "
                f"{case.tolerance:.2e} (torch in float32 is off by {case.torch_error:.2e}); the file was not kept. Other versions of "
                "torch, onnx or onnxruntime may do better"
            )
        records.append(
            {
                "images": case.name,
                "error": error,
                "tolerance": case.tolerance,
                "torch_error": case.torch_error,
                "logits_rms": float(case.logits.square().mean().sqrt()),
            }
        )
    return records


def _distance(logits: Tensor, exact: Tensor) -> float:
    return float((logits.double() - exact).abs().max()) if exact.numel() else 0.0


class _Rounding(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Makes every result as wrong as float32 could have made it, with random signs."""

    def __init__(self, seed: int) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.generator = torch.Generator().manual_seed(seed)

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        amplitude = _AMPLITUDES.get(func.overloadpacket)
        size = None if amplitude is None else amplitude(*args)  # before: the operation may be in place
        result = func(*args, **(kwargs or {}))
        if size is None:
            return result
        output = result[0] if isinstance(result, tuple) else result
        signs = torch.randint(0, 2, output.shape, generator=self.generator, dtype=output.dtype) * 2 - 1
        output.add_(UNIT * size * signs)
        return result


def _of_convolution(x: Tensor, weight: Tensor, bias: Tensor | None, *geometry: Any) -> Tensor:
    absolute = aten.convolution(x.abs(), weight.abs(), None if bias is None else bias.abs(), *geometry)
    return (math.sqrt(weight[0].numel()) + FOLDED) * absolute


def _of_linear(bias: Tensor, x: Tensor, weight: Tensor) -> Tensor:
    return (math.sqrt(x.shape[1]) + 1) * (x.abs() @ weight.abs() + bias.abs())


def _of_norm(x: Tensor, weight: Tensor, bias: Tensor, mean: Tensor, var: Tensor, *how: Any) -> Tensor:
    eps = how[-1]
    scale = weight.abs() / (var + eps).sqrt()
    terms = x.abs() * scale[:, None, None] + ((mean * scale).abs() + bias.abs())[:, None, None]
    return NORM * terms


def _of_mean(x: Tensor, dims: list[int] | None = None, *how: Any) -> Tensor:
    dims = list(range(x.dim())) if dims is None else dims
    count = 1
    for dim in dims:
        count *= x.shape[dim]
    return math.sqrt(count) * x.abs().mean(dims, *how)


_AMPLITUDES: Mapping[Any, Callable[..., Tensor]] = {
    aten.convolution: _of_convolution,
    aten.addmm: _of_linear,
    aten.native_batch_norm: _of_norm,
    aten._native_batch_norm_legit_no_training: _of_norm,
    aten.mean: _of_mean,
    aten.silu: lambda x: SIGMOID * x.abs(),
    aten.silu_: lambda x: SIGMOID * x.abs(),
    aten.sigmoid: lambda x: torch.full_like(x, SIGMOID),
    aten.sigmoid_: lambda x: torch.full_like(x, SIGMOID),
    aten.mul: lambda x, y: (x * y).abs(),
    aten.add: lambda x, y: (x + y).abs(),
}
