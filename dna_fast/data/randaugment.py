"""RandAugment on batches of decoded crops, on whatever device they are: timm's operators, in the arithmetic of Pillow.

DALI's own RandAugment draws inside its pipeline from a generator with a state: an epoch could not be entered at any batch, and
an image would change with its rank. Here operators and strengths are drawn beforehand from (seed, epoch, image).

Source: Cubuk et al., arXiv 1909.13719; operators and strengths are timm's "rand-mM-mstd0.5-inc1".
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

NUMBERS_PER_LAYER = 5  # uniform ones: which operator, whether at all, two for a normal deviate, sign
MOST_MAGNITUDE = 10.0
_SPREAD = 0.5  # standard deviation of the magnitude
_APPLIED = 0.5  # share of the drawn operators that are applied
_SMOOTH = (1.0, 1.0, 1.0, 1.0, 5.0, 1.0, 1.0, 1.0, 1.0)  # Pillow's SMOOTH, / 13
_LUMA_16 = (19595, 38470, 7471)  # Pillow's integer weights of grey, / 2^16

# Operator -> its argument from the share of the greatest magnitude, in 0..1, and a sign. Those of a look-up table first, then colour
# and sharpness, then those that move pixels.
_ARGUMENTS: dict[str, Callable[[float, float], float]] = {
    "auto_contrast": lambda share, sign: 0.0,
    "equalize": lambda share, sign: 0.0,
    "invert": lambda share, sign: 0.0,
    "posterize": lambda share, sign: 4.0 - int(share * 4),  # bits that are kept
    "solarize": lambda share, sign: 256.0 - int(share * 256),  # least value that is inverted
    "solarize_add": lambda share, sign: min(128.0, int(share * 110)),  # added to values below 128
    "contrast": lambda share, sign: max(0.1, 1.0 + sign * share * 0.9),
    "brightness": lambda share, sign: max(0.1, 1.0 + sign * share * 0.9),
    "color": lambda share, sign: max(0.1, 1.0 + sign * share * 0.9),
    "sharpness": lambda share, sign: max(0.1, 1.0 + sign * share * 0.9),
    "rotate": lambda share, sign: sign * share * 30.0,  # degrees
    "shear_x": lambda share, sign: sign * share * 0.3,
    "shear_y": lambda share, sign: sign * share * 0.3,
    "translate_x": lambda share, sign: sign * share * 0.45,  # of the side
    "translate_y": lambda share, sign: sign * share * 0.45,
}
OPERATORS = tuple(_ARGUMENTS)
_COLOR, _SHARPNESS = OPERATORS.index("color"), OPERATORS.index("sharpness")


def draw_policy(numbers: NDArray[np.float64], magnitude: float) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Which operators change an image, and their arguments.

    Args:
        numbers: [N, layers, NUMBERS_PER_LAYER] in [0, 1).
        magnitude: mean of the magnitudes, of MOST_MAGNITUDE.

    Returns:
        Positions in OPERATORS, int64 [N, layers], -1 where none is applied; arguments, float64 [N, layers].
    """
    chosen, applied, radius, angle, sign = np.moveaxis(numbers, -1, 0)
    operators = np.where(applied < _APPLIED, np.floor(chosen * len(OPERATORS)).astype(np.int64), -1)
    normal = np.sqrt(-2.0 * np.log1p(-radius)) * np.cos(2.0 * np.pi * angle)
    shares = np.clip(magnitude + _SPREAD * normal, 0.0, MOST_MAGNITUDE) / MOST_MAGNITUDE
    signs = np.where(sign < 0.5, -1.0, 1.0)
    arguments = np.zeros_like(shares)
    for position, of_share in enumerate(_ARGUMENTS.values()):
        for where in zip(*np.nonzero(operators == position), strict=True):
            arguments[where] = of_share(float(shares[where]), float(signs[where]))
    return operators, arguments


def rand_augment(
    pixels: Tensor, operators: NDArray[np.int64], arguments: NDArray[np.float64], fill: tuple[float, float, float]
) -> Tensor:
    """Applies drawn operators, layer by layer.

    Args:
        pixels: [N, H, W, 3] uint8; overwritten.
        operators, arguments: [N, layers], of `draw_policy`.
        fill: grey levels in 0..1 of what comes into view from outside.
    """
    for layer in range(operators.shape[1]):
        kinds, values = operators[:, layer], arguments[:, layer]
        groups: tuple[tuple[NDArray[np.bool_], Callable[..., Tensor]], ...] = (
            ((kinds >= 0) & (kinds < _COLOR), _look_up),
            (kinds == _COLOR, _color),
            (kinds == _SHARPNESS, _sharpness),
            (kinds > _SHARPNESS, _move),
        )
        for chosen, apply in groups:
            if chosen.any():
                images = torch.from_numpy(np.flatnonzero(chosen)).to(pixels.device)
                extra = (fill,) if apply is _move else ()
                pixels[images] = apply(pixels[images], kinds[chosen], values[chosen], *extra)
    return pixels


# ---- operators: [n, H, W, 3] uint8, kinds and values of n images -> the same ------------------------------------------


def _look_up(pixels: Tensor, kinds: NDArray[np.int64], values: NDArray[np.float64]) -> Tensor:
    """Whatever maps each grey level of a channel to another."""
    images = len(pixels)
    slots = torch.arange(images * 3, device=pixels.device).mul_(256).view(images, 1, 1, 3)
    places = pixels.long() + slots
    counts = torch.bincount(places.flatten(), minlength=images * 3 * 256).view(images, 3, 256).cpu().numpy()
    greys = _grey(pixels).double().mean((1, 2)).add_(0.5).floor_().cpu().numpy()
    tables = np.stack([
        _table(OPERATORS[kind], float(value), counts[k], float(greys[k]))
        for k, (kind, value) in enumerate(zip(kinds, values, strict=True))
    ])  # fmt: skip
    return torch.from_numpy(tables).to(pixels.device).flatten()[places]


def _table(name: str, value: float, counts: NDArray[np.int64], grey: float) -> NDArray[np.uint8]:
    """[3, 256] from an operator, its argument, the histograms of the channels [3, 256] and the mean grey."""
    level = np.arange(256)
    if name == "auto_contrast":
        return np.stack([_stretch(channel) for channel in counts])
    if name == "equalize":
        return np.stack([_equalizing(channel) for channel in counts])
    if name == "invert":
        table = 255.0 - level
    elif name == "posterize":
        table = level & ~(2 ** (8 - int(value)) - 1)
    elif name == "solarize":
        table = np.where(level < value, level, 255 - level)
    elif name == "solarize_add":
        table = np.where(level < 128, level + value, level)
    else:  # contrast and brightness blend with the mean grey and with black
        base = np.float32(grey if name == "contrast" else 0.0)
        table = base + np.float32(value) * (level.astype(np.float32) - base)
    return np.broadcast_to(np.clip(table, 0, 255).astype(np.uint8), (3, 256))


def _stretch(counts: NDArray[np.int64]) -> NDArray[np.uint8]:
    present = np.flatnonzero(counts)
    low, high = present[0], present[-1]
    if high <= low:
        return np.arange(256, dtype=np.uint8)
    scale = 255.0 / (high - low)
    return np.clip(np.arange(256) * scale - low * scale, 0, 255).astype(np.uint8)


def _equalizing(counts: NDArray[np.int64]) -> NDArray[np.uint8]:
    present = np.flatnonzero(counts)
    step = (counts.sum() - counts[present[-1]]) // 255
    if step == 0:
        return np.arange(256, dtype=np.uint8)
    before = np.concatenate([[0], np.cumsum(counts)[:-1]])
    return np.clip((step // 2 + before) // step, 0, 255).astype(np.uint8)


def _grey(pixels: Tensor) -> Tensor:
    """[n, H, W] int32, as Pillow converts to L."""
    red, green, blue = pixels.int().unbind(3)
    return (red * _LUMA_16[0] + green * _LUMA_16[1] + blue * _LUMA_16[2] + 0x8000) >> 16


def _blend(base: Tensor, pixels: Tensor, values: NDArray[np.float64]) -> Tensor:
    """base + value (pixels - base), cut off to whole levels as Pillow does. base: float32, pixels: uint8."""
    factor = torch.from_numpy(values.astype(np.float32)).to(pixels.device)[:, None, None, None]
    return (base + factor * (pixels.float() - base)).clamp_(0.0, 255.0).to(torch.uint8)


def _color(pixels: Tensor, _: NDArray[np.int64], values: NDArray[np.float64]) -> Tensor:
    return _blend(_grey(pixels)[..., None].float(), pixels, values)


def _sharpness(pixels: Tensor, _: NDArray[np.int64], values: NDArray[np.float64]) -> Tensor:
    planes = pixels.permute(0, 3, 1, 2).float()
    smooth = planes.clone()
    if min(planes.shape[2:]) > 2:  # Pillow leaves the border as it is
        kernel = torch.tensor(_SMOOTH, device=pixels.device).view(1, 1, 3, 3).expand(3, 1, 3, 3) / 13.0
        smooth[:, :, 1:-1, 1:-1] = F.conv2d(planes, kernel, groups=3).add_(0.5).floor_().clamp_(0.0, 255.0)
    return _blend(smooth.permute(0, 2, 3, 1), pixels, values)


def _move(
    pixels: Tensor, kinds: NDArray[np.int64], values: NDArray[np.float64], fill: tuple[float, float, float]
) -> Tensor:
    """Rotation, shears and translations, bilinear."""
    _, height, width, _ = pixels.shape
    maps = np.stack([
        _affine(OPERATORS[kind], float(value), width, height) for kind, value in zip(kinds, values, strict=True)
    ])  # fmt: skip
    matrix = torch.from_numpy(maps).to(pixels.device, torch.float32)  # [n, 2, 3]
    x = torch.arange(width, device=pixels.device) + 0.5
    y = torch.arange(height, device=pixels.device) + 0.5
    places = torch.stack(
        [x.expand(height, width), y[:, None].expand(height, width), torch.ones_like(x).expand(height, width)]
    )
    source = torch.einsum("nij,jhw->nhwi", matrix, places)  # x and y of what an output pixel shows
    size = torch.tensor([width, height], device=pixels.device, dtype=torch.float32)
    inside = ((source >= 0.0) & (source < size)).all(3, keepdim=True)
    planes = pixels.permute(0, 3, 1, 2).float()
    grid = source * (2.0 / size) - 1.0
    seen = F.grid_sample(planes, grid, mode="bilinear", padding_mode="border", align_corners=False)
    # A thousandth, because float32 coordinates put a pixel that stays in place a hair below its level.
    seen = (seen.permute(0, 2, 3, 1) + 1e-3).clamp_(0.0, 255.0).to(torch.uint8)
    outside = torch.tensor([round(255 * level) for level in fill], device=pixels.device).clamp_(0, 255).to(torch.uint8)
    return torch.where(inside, seen, outside)


def _affine(name: str, value: float, width: int, height: int) -> NDArray[np.float64]:
    """[2, 3]: output pixel -> place in the source, both counted from the image's corner."""
    if name == "shear_x":
        return np.array([[1.0, value, 0.0], [0.0, 1.0, 0.0]])
    if name == "shear_y":
        return np.array([[1.0, 0.0, 0.0], [value, 1.0, 0.0]])
    if name == "translate_x":
        return np.array([[1.0, 0.0, value * width], [0.0, 1.0, 0.0]])
    if name == "translate_y":
        return np.array([[1.0, 0.0, 0.0], [0.0, 1.0, value * height]])
    angle = -math.radians(value)
    cos, sin = math.cos(angle), math.sin(angle)
    x, y = width / 2.0, height / 2.0
    return np.array([[cos, sin, x - cos * x - sin * y], [-sin, cos, y + sin * x - cos * y]])
