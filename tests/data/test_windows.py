"""Crop geometry: inside the image, of the asked area and aspect, and timm's evaluation arithmetic."""

import math

import numpy as np
import pytest

from dna_fast.data.keyed import Purpose, uniform
from dna_fast.data.transforms import EvalTransform, TrainTransform
from dna_fast.data.windows import UNIFORMS_PER_WINDOW, centre_windows, random_windows

N = 4000


def draws(seed: int = 0) -> np.ndarray:
    return uniform(seed, 0, np.arange(N), Purpose.WINDOW, UNIFORMS_PER_WINDOW)


@pytest.mark.parametrize(("width", "height"), [(500, 375), (375, 500), (1, 1), (1, 400), (400, 3), (2, 2)], ids=str)
def test_random_windows_lie_inside(width: int, height: int) -> None:
    sizes = np.full(N, width, np.int32), np.full(N, height, np.int32)
    geometry = random_windows(*sizes, draws(), (0.08, 1.0), (3 / 4, 4 / 3), 32)
    assert (geometry.anchor >= 0).all()
    assert (geometry.shape >= 1).all()
    assert (geometry.anchor + geometry.shape <= [height, width]).all()
    assert (geometry.resized == 32).all()
    assert (geometry.corner == 0).all()


def test_random_windows_cover_the_asked_areas_and_aspects() -> None:
    sizes = np.full(N, 500, np.int32), np.full(N, 400, np.int32)
    geometry = random_windows(*sizes, draws(), (0.2, 0.6), (0.8, 1.25), 32)
    rows, columns = geometry.shape.T.astype(float)
    area, aspect = rows * columns / 200_000, columns / rows
    assert 0.198 < area.min() < 0.21
    assert 0.59 < area.max() < 0.602
    assert 0.79 < aspect.min() < 0.81
    assert 1.23 < aspect.max() < 1.26
    assert abs(area.mean() - 0.4) < 5 * 0.4 / math.sqrt(12 * N)  # five standard errors of a uniform mean
    room = np.array([400, 500]) - geometry.shape
    assert (geometry.anchor == 0).any(0).all()
    assert (geometry.anchor == room).any(0).all()


def test_an_image_too_long_for_any_window_gets_its_centre() -> None:
    geometry = random_windows(np.array([1000]), np.array([10]), draws()[:1], (0.9, 1.0), (3 / 4, 4 / 3), 32)
    assert geometry.shape.tolist() == [[10, 13]]
    assert geometry.anchor.tolist() == [[0, 493]]


@pytest.mark.parametrize("crop_pct", [0.875, 0.9, 1.0])
@pytest.mark.parametrize("size", [64, 97, 224])
def test_centre_windows_follow_torchvision(size: int, crop_pct: float) -> None:
    widths, heights = np.random.default_rng(0).integers(1, 700, (2, 200)).astype(np.int32)
    geometry = centre_windows(widths, heights, EvalTransform(size, crop_pct))
    short = math.floor(size / crop_pct)
    for k, (width, height) in enumerate(zip(widths.tolist(), heights.tolist(), strict=True)):
        long = int(short * max(width, height) / min(width, height))
        rows, columns = (short, long) if height <= width else (long, short)
        assert geometry.resized[k].tolist() == [rows, columns]
        assert geometry.corner[k].tolist() == [round((rows - size) / 2), round((columns - size) / 2)]
        assert geometry.shape[k].tolist() == [height, width]
        assert geometry.anchor[k].tolist() == [0, 0]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: TrainTransform(0), "size must be at least 1"),
        (lambda: TrainTransform(8, interpolation="nearest"), "one of bicubic, bilinear, got 'nearest'"),
        (lambda: TrainTransform(8, scale=(0.5, 1.5)), "scale must be"),
        (lambda: TrainTransform(8, ratio=(2.0, 1.0)), "ratio must be"),
        (lambda: TrainTransform(8, flip=1.5), "flip must be in 0..1"),
        (lambda: TrainTransform(8, color_jitter=-0.1), "color_jitter"),
        (lambda: TrainTransform(8, rotate_deg=181.0), "rotate_deg"),
        (lambda: TrainTransform(8, std=(1.0, 0.0, 1.0)), "std must be positive"),
        (lambda: EvalTransform(8, mean=(0.5,)), "mean must hold 3 numbers"),  # type: ignore[arg-type]
        (lambda: EvalTransform(8, crop_pct=0.0), "crop_pct must be in"),
        (lambda: EvalTransform(8, crop_pct=1.1), "crop_pct must be in"),
    ],
    ids=["size", "interpolation", "scale", "ratio", "flip", "jitter", "rotate", "std", "mean", "crop-0", "crop-large"],
)
def test_bad_transforms_say_what_is_expected(make, message: str) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(ValueError, match=message):
        make()
