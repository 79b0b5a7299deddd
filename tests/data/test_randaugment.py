"""RandAugment: every operator against timm's on Pillow images, and draws that depend on the image alone."""

import math

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="needs torch")
reference = pytest.importorskip("timm.data.auto_augment", reason="needs timm")

from data.pictures import picture  # noqa: E402
from PIL import Image  # noqa: E402

from dna_fast.data.keyed import Purpose, uniform  # noqa: E402
from dna_fast.data.pixels import draw, finish  # noqa: E402
from dna_fast.data.randaugment import (  # noqa: E402
    MOST_MAGNITUDE,
    NUMBERS_PER_LAYER,
    OPERATORS,
    draw_policy,
    rand_augment,
)
from dna_fast.data.transforms import TrainTransform  # noqa: E402

FILL = (0.2, 0.5, 0.8)
FILL_LEVELS = (51, 128, 204)
MOVED = {"resample": Image.Resampling.BILINEAR, "fillcolor": FILL_LEVELS}
# Operator -> timm's function of an image and our argument.
THEIRS = {
    "auto_contrast": lambda image, _: reference.auto_contrast(image),
    "equalize": lambda image, _: reference.equalize(image),
    "invert": lambda image, _: reference.invert(image),
    "posterize": lambda image, value: reference.posterize(image, int(value)),
    "solarize": reference.solarize,
    "solarize_add": lambda image, value: reference.solarize_add(image, int(value)),
    "contrast": reference.contrast,
    "brightness": reference.brightness,
    "color": reference.color,
    "sharpness": reference.sharpness,
    "rotate": lambda image, value: reference.rotate(image, value, **MOVED),
    "shear_x": lambda image, value: reference.shear_x(image, value, **MOVED),
    "shear_y": lambda image, value: reference.shear_y(image, value, **MOVED),
    "translate_x": lambda image, value: reference.translate_x_rel(image, value, **MOVED),
    "translate_y": lambda image, value: reference.translate_y_rel(image, value, **MOVED),
}
LEVELS = {  # our operator -> timm's function from a magnitude to an argument
    "posterize": "PosterizeIncreasing",
    "solarize": "SolarizeIncreasing",
    "solarize_add": "SolarizeAdd",
    "contrast": "ContrastIncreasing",
    "brightness": "BrightnessIncreasing",
    "color": "ColorIncreasing",
    "sharpness": "SharpnessIncreasing",
    "rotate": "Rotate",
    "shear_x": "ShearX",
    "shear_y": "ShearY",
    "translate_x": "TranslateXRel",
    "translate_y": "TranslateYRel",
}


def photos(side: int = 64) -> list[Image.Image]:
    """Ordinary, dark, flat, of one colour."""
    ordinary = picture(side, side, seed=0)
    dark = Image.eval(picture(side, side, seed=1), lambda level: 20 + level // 5)
    steps = np.repeat(np.array([[[10, 10, 10], [200, 100, 50]]], np.uint8), [side // 2, side // 2], axis=1)
    return [
        ordinary,
        dark,
        Image.fromarray(np.repeat(steps, side, axis=0)),
        Image.new("RGB", (side, side), (7, 77, 177)),
    ]


def batch(images: list[Image.Image]) -> torch.Tensor:
    return torch.from_numpy(np.stack([np.asarray(image) for image in images]))


def applied(images: list[Image.Image], name: str, value: float) -> torch.Tensor:
    operators = np.full((len(images), 1), OPERATORS.index(name))
    return rand_augment(batch(images), operators, np.full((len(images), 1), value), FILL)


def test_the_operators_are_timms() -> None:
    assert set(THEIRS) == set(OPERATORS)
    assert len(OPERATORS) == len(reference._RAND_INCREASING_TRANSFORMS)


@pytest.mark.parametrize("magnitude", [0.0, 3.7, 9.0, 10.0])
@pytest.mark.parametrize("name", LEVELS)
def test_strengths_are_timms(name: str, magnitude: float, monkeypatch: pytest.MonkeyPatch) -> None:
    for sign, coin in ((0.0, 1.0), (0.9, 0.0)):  # our number -> -1, 1; timm's coin -> negated, kept
        monkeypatch.setattr(reference.random, "random", lambda coin=coin: coin)
        numbers = np.array([[[(OPERATORS.index(name) + 0.5) / len(OPERATORS), 0.0, 0.0, 0.0, sign]]])
        operators, arguments = draw_policy(numbers, magnitude)  # a radius of 0: no deviation
        assert OPERATORS[operators[0, 0]] == name
        assert arguments[0, 0] == pytest.approx(reference.LEVEL_TO_ARG[LEVELS[name]](magnitude, {})[0], abs=1e-12)


@pytest.mark.parametrize("share", [0.1, 0.9])
@pytest.mark.parametrize("name", OPERATORS)
def test_pixels_are_timms(name: str, share: float) -> None:
    numbers = np.array([[[(OPERATORS.index(name) + 0.5) / len(OPERATORS), 0.0, 0.0, 0.0, 0.9]]])
    value = float(draw_policy(numbers, MOST_MAGNITUDE * share)[1][0, 0])
    images = photos()
    for image, got in zip(images, applied(images, name, value), strict=True):
        expected = np.asarray(THEIRS[name](image, value)).astype(int)
        difference = np.abs(got.numpy().astype(int) - expected)
        if OPERATORS.index(name) < OPERATORS.index("rotate"):
            assert difference.max() <= 1  # floats that are cut off to whole levels may fall to either side
        else:
            # Coordinates in float32 against Pillow's doubles: a level where a value is cut off, and pixels at the very edge
            # of the image may be inside or outside.
            assert (difference > 1).mean() < 0.005
        assert (difference == 0).mean() > 0.95


def test_nothing_drawn_changes_nothing() -> None:
    images = batch(photos())
    assert torch.equal(rand_augment(images.clone(), np.full((4, 2), -1), np.zeros((4, 2)), FILL), images)


def test_every_image_gets_its_own_operators() -> None:
    images, count = photos() * 8, 32
    numbers = uniform(0, 0, np.arange(count), Purpose.POLICY, 2 * NUMBERS_PER_LAYER).reshape(count, 2, -1)
    operators, arguments = draw_policy(numbers, 9.0)
    together = rand_augment(batch(images), operators, arguments, FILL)
    for k in range(count):
        alone = rand_augment(batch(images[k : k + 1]), operators[k : k + 1], arguments[k : k + 1], FILL)
        assert torch.equal(alone[0], together[k])


def test_draws_have_the_asked_distribution() -> None:
    count = 20_000
    numbers = uniform(0, 0, np.arange(count), Purpose.POLICY, 2 * NUMBERS_PER_LAYER).reshape(count, 2, -1)
    operators, arguments = draw_policy(numbers, 5.0)
    kinds = np.bincount(operators.ravel() + 1, minlength=len(OPERATORS) + 1) / operators.size
    error = 5 * math.sqrt(0.25 / operators.size)  # five standard errors, at most
    assert abs(kinds[0] - 0.5) < error
    assert np.abs(kinds[1:] - 0.5 / len(OPERATORS)).max() < error
    angles = arguments[operators == OPERATORS.index("rotate")]
    magnitudes = np.abs(angles) / 3.0
    spread = 0.5 / math.sqrt(len(angles))
    assert abs(magnitudes.mean() - 5.0) < 5 * spread
    assert abs(magnitudes.std() - 0.5) < 5 * spread
    assert abs((angles > 0).mean() - 0.5) < 5 * 0.5 / math.sqrt(len(angles))
    correlation = np.corrcoef((operators[:, 0] >= 0).astype(float), (operators[:, 1] >= 0).astype(float))[0, 1]
    assert abs(correlation) < 5 / math.sqrt(count)


def test_a_transform_applies_it_before_normalising() -> None:
    transform = TrainTransform(64, flip=0.0, color_jitter=0.0, erase_prob=0.0, rand_augment=2)
    indices = np.arange(40)
    draws = draw(transform, 3, 1, indices)
    images = photos() * 10
    expected = rand_augment(batch(images), draws.operators, draws.arguments, transform.mean)
    got = finish(batch(images), transform, draws)
    plain = finish(
        expected, TrainTransform(64, flip=0.0, color_jitter=0.0, erase_prob=0.0), draw(transform, 3, 1, indices)
    )
    assert (draws.operators >= 0).any()
    assert torch.equal(got, plain)


@pytest.mark.parametrize(
    ("change", "message"),
    [({"rand_augment": -1}, "rand_augment must not be negative"), ({"rand_magnitude": 11.0}, "rand_magnitude must be in 0..10")],
    ids=["operators", "magnitude"],
)  # fmt: skip
def test_bad_values_are_named(change: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TrainTransform(32, **change)  # type: ignore[arg-type]


@pytest.mark.gpu
def test_gpu_agrees_with_cpu() -> None:
    images, count = photos() * 8, 32
    numbers = uniform(0, 0, np.arange(count), Purpose.POLICY, 2 * NUMBERS_PER_LAYER).reshape(count, 2, -1)
    operators, arguments = draw_policy(numbers, 9.0)
    on_cpu = rand_augment(batch(images), operators, arguments, FILL).int()
    on_gpu = rand_augment(batch(images).cuda(), operators, arguments, FILL).cpu().int()
    assert ((on_gpu - on_cpu).abs() > 1).float().mean() < 0.005
