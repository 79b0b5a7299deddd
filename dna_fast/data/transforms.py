"""What is done to an image, as frozen descriptions; windows.py and pixels.py carry them out."""

from __future__ import annotations

import math
from dataclasses import dataclass

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
INTERPOLATIONS = ("bicubic", "bilinear")

RGB = tuple[float, float, float]
Range = tuple[float, float]


@dataclass(frozen=True)
class TrainTransform:
    """Random-resized crop, flip, RandAugment, colour jitter, rotation and shift, random erasing; what timm trains with.

    Args:
        size: side of the square output in pixels.
        scale: range of the crop's share of the image area.
        ratio: range of the crop's width / height, drawn log-uniformly.
        flip: probability of a horizontal flip.
        color_jitter: j; brightness, contrast and saturation factors are drawn from [max(0, 1 - j), 1 + j].
        rotate_deg: angle drawn from [-rotate_deg, rotate_deg]; uncovered corners repeat the border.
        translate: shift drawn from [-translate, translate] times the side, in x and in y.
        erase_prob: probability that a rectangle (area 0.02..1/3 of the image, aspect 0.3..3.3) becomes normal noise,
            one number per pixel and channel, drawn after normalisation.
        rand_augment: operators that RandAugment draws per image, of which half are applied; 0: none. Before the jitter.
        rand_magnitude: their mean strength, in 0..10; timm's "rand-m9-mstd0.5-inc1" is 9.
        mean, std: per channel, of images in 0..1.
        interpolation: "bicubic" or "bilinear", both antialiased.
    """

    size: int
    scale: Range = (0.08, 1.0)
    ratio: Range = (3 / 4, 4 / 3)
    flip: float = 0.5
    color_jitter: float = 0.4
    rotate_deg: float = 0.0
    translate: float = 0.0
    erase_prob: float = 0.5
    rand_augment: int = 0
    rand_magnitude: float = 9.0
    mean: RGB = IMAGENET_MEAN
    std: RGB = IMAGENET_STD
    interpolation: str = "bicubic"

    def __post_init__(self) -> None:
        _check_common(self)
        _check_range("scale", self.scale, upper=1.0)
        _check_range("ratio", self.ratio, upper=math.inf)
        for name in ("flip", "erase_prob", "translate"):
            if not 0.0 <= getattr(self, name) <= 1.0:
                raise ValueError(f"transform: {name} must be in 0..1, got {getattr(self, name)}")
        if not 0.0 <= self.color_jitter < math.inf:
            raise ValueError(f"transform: color_jitter must be finite and not negative, got {self.color_jitter}")
        if self.rand_augment < 0:
            raise ValueError(f"transform: rand_augment must not be negative, got {self.rand_augment}")
        if not 0.0 <= self.rand_magnitude <= 10.0:
            raise ValueError(f"transform: rand_magnitude must be in 0..10, got {self.rand_magnitude}")
        if not 0.0 <= self.rotate_deg <= 180.0:
            raise ValueError(f"transform: rotate_deg must be in 0..180, got {self.rotate_deg}")

    @property
    def warps(self) -> bool:
        """Whether images are rotated or shifted at all."""
        return self.rotate_deg > 0.0 or self.translate > 0.0


@dataclass(frozen=True)
class EvalTransform:
    """Shorter side to floor(size / crop_pct), then the centre crop; timm's evaluation transform.

    Args:
        size: side of the square output in pixels.
        crop_pct: share of the shorter side that the crop keeps, in (0, 1].
        mean, std, interpolation: as TrainTransform.
    """

    size: int
    crop_pct: float = 0.875
    mean: RGB = IMAGENET_MEAN
    std: RGB = IMAGENET_STD
    interpolation: str = "bicubic"

    def __post_init__(self) -> None:
        _check_common(self)
        if not 0.0 < self.crop_pct <= 1.0:
            raise ValueError(f"transform: crop_pct must be in (0, 1], got {self.crop_pct}")


Transform = TrainTransform | EvalTransform


def _check_common(transform: Transform) -> None:
    if transform.size < 1:
        raise ValueError(f"transform: size must be at least 1 pixel, got {transform.size}")
    for name in ("mean", "std"):
        if len(getattr(transform, name)) != 3:
            raise ValueError(f"transform: {name} must hold 3 numbers, one per channel, got {getattr(transform, name)}")
    if min(transform.std) <= 0.0:
        raise ValueError(f"transform: std must be positive, got {transform.std}")
    if transform.interpolation not in INTERPOLATIONS:
        raise ValueError(
            f"transform: interpolation must be one of {', '.join(INTERPOLATIONS)}, got {transform.interpolation!r}"
        )


def _check_range(name: str, bounds: Range, upper: float) -> None:
    if len(bounds) != 2 or not 0.0 < bounds[0] <= bounds[1] <= upper or math.isinf(bounds[1]):
        limit = f" and at most {upper:g}" if upper < math.inf else ""
        raise ValueError(f"transform: {name} must be (low, high), positive{limit}, low <= high, got {bounds}")
