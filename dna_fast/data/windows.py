"""Where a crop lies, and how large its source is: the geometry of a batch, in numpy and in whole pixels."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dna_fast.data.transforms import EvalTransform, Range

Int32s = NDArray[np.int32]
_ATTEMPTS = 10  # tries for a window that fits before the centre crop, as in torchvision and timm
UNIFORMS_PER_WINDOW = 2 * _ATTEMPTS + 2


@dataclass(frozen=True)
class Geometry:
    """Per image: the window that is decoded, the size it is resized to, and the corner of the final square in that.

    All arrays are int32 [N, 2], rows before columns.
    """

    anchor: Int32s
    shape: Int32s
    resized: Int32s
    corner: Int32s


def random_windows(
    widths: Int32s, heights: Int32s, draws: NDArray[np.float64], scale: Range, ratio: Range, size: int
) -> Geometry:
    """Random-resized crops: the first of ten drawn windows that fits, else the largest centre window.

    Args:
        widths, heights: [N] image sizes in pixels.
        draws: [N, UNIFORMS_PER_WINDOW] in [0, 1).
        scale, ratio: ranges of area share and width / height.
        size: side of the output in pixels.
    """
    area_draws, ratio_draws = draws[:, :_ATTEMPTS], draws[:, _ATTEMPTS : 2 * _ATTEMPTS]
    areas = widths.astype(np.float64) * heights
    target = areas[:, None] * (scale[0] + area_draws * (scale[1] - scale[0]))
    log_low, log_high = math.log(ratio[0]), math.log(ratio[1])
    ratios = np.exp(log_low + ratio_draws * (log_high - log_low))
    tried_widths = np.rint(np.sqrt(target * ratios)).astype(np.int64)
    tried_heights = np.rint(np.sqrt(target / ratios)).astype(np.int64)
    fits = (
        (tried_widths >= 1) & (tried_heights >= 1)
        & (tried_widths <= widths[:, None]) & (tried_heights <= heights[:, None])
    )  # fmt: skip
    first = fits.argmax(axis=1)
    rows = np.arange(len(widths))
    drawn = np.stack([tried_heights[rows, first], tried_widths[rows, first]], axis=1)
    found = fits.any(axis=1, keepdims=True)
    shape = np.where(found, drawn, _centre_shapes(widths, heights, ratio))
    room = np.stack([heights, widths], axis=1) - shape
    anchor = np.where(found, np.floor(draws[:, 2 * _ATTEMPTS :] * (room + 1)), room // 2)
    square = np.full_like(shape, size)
    return _geometry(anchor, shape, square, np.zeros_like(shape))


def _centre_shapes(widths: Int32s, heights: Int32s, ratio: Range) -> NDArray[np.int64]:
    """[N, 2] rows, columns of the largest window whose aspect lies in `ratio`."""
    columns = np.minimum(widths, np.maximum(1, np.rint(heights * ratio[1])))
    rows = np.minimum(heights, np.maximum(1, np.rint(widths / ratio[0])))
    return np.stack([rows, columns], axis=1).astype(np.int64)


def centre_windows(widths: Int32s, heights: Int32s, transform: EvalTransform) -> Geometry:
    """Whole images, resized by the shorter side, and the corner of the centre crop.

    Sizes and offsets are computed in integers exactly as timm and torchvision do: the long side is truncated, the
    corner is rounded half to even. Half a pixel of offset is what separates a loader from its reference.
    """
    short_side = math.floor(transform.size / transform.crop_pct)
    whole = np.stack([heights, widths], axis=1).astype(np.int64)
    resized = short_side * whole // whole.min(axis=1, keepdims=True)
    corner = np.rint((resized - transform.size) / 2)
    return _geometry(np.zeros_like(whole), whole, resized, corner)


def _geometry(*parts: NDArray[Any]) -> Geometry:
    """Geometry's fields, in their order, from arrays of whole numbers of any type."""
    return Geometry(*(np.ascontiguousarray(part, np.int32) for part in parts))
