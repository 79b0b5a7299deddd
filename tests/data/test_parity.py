"""Augmentations against torchvision's own draws: the same distributions, by two-sample Kolmogorov-Smirnov distance.

Where two samples of n come from one distribution, their distance exceeds LIMIT once in a million tries; seeds are fixed.
"""

import math
from collections.abc import Callable, Iterator

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="needs torch")
transforms = pytest.importorskip("torchvision.transforms", reason="needs torchvision")
stats = pytest.importorskip("scipy.stats", reason="needs scipy")

from dna_fast.data.keyed import Purpose, uniform  # noqa: E402
from dna_fast.data.pixels import draw  # noqa: E402
from dna_fast.data.transforms import TrainTransform  # noqa: E402
from dna_fast.data.windows import UNIFORMS_PER_WINDOW, random_windows  # noqa: E402

N = 3000
LIMIT = math.sqrt(-math.log(1e-6 / 2) / 2 * 2 / N)
SIZES = {"landscape": (500, 375), "portrait": (333, 500), "panorama": (1200, 200)}  # width, height


@pytest.fixture(autouse=True)
def _fixed_seed() -> Iterator[None]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield


def assert_alike(ours: np.ndarray, theirs: np.ndarray) -> None:
    # Asymptotic: only the distance is looked at, and exact probabilities of so large samples take seconds.
    distance = stats.ks_2samp(ours, theirs, method="asymp").statistic
    assert distance < LIMIT, f"distance {distance:.3f}, means {ours.mean():.4f} and {theirs.mean():.4f}"


@pytest.mark.parametrize("shape", SIZES)
def test_crops(shape: str) -> None:
    width, height = SIZES[shape]
    numbers = uniform(0, 0, np.arange(N), Purpose.WINDOW, UNIFORMS_PER_WINDOW)
    transform = TrainTransform(224)
    geometry = random_windows(
        np.full(N, width, np.int32), np.full(N, height, np.int32), numbers, transform.scale, transform.ratio, 224
    )
    ours = np.concatenate([geometry.anchor, geometry.shape], axis=1).astype(float)  # top, left, rows, columns
    image = torch.empty(3, height, width)
    theirs = np.array([
        transforms.RandomResizedCrop.get_params(image, [0.08, 1.0], [3 / 4, 4 / 3]) for _ in range(N)
    ])  # fmt: skip
    aspects: dict[str, Callable[[np.ndarray], np.ndarray]] = {
        "area": lambda c: c[:, 2] * c[:, 3] / (width * height),
        "aspect": lambda c: c[:, 3] / c[:, 2],
        "top": lambda c: c[:, 0],
        "left": lambda c: c[:, 1],
    }
    for measure in aspects.values():
        assert_alike(measure(ours), measure(theirs))


def test_erased_windows() -> None:
    draws = draw(TrainTransform(224, erase_prob=0.5), 0, 0, np.arange(2 * N))
    erased = draws.erase[draws.erase[:, 2] > 0][:, 2:].astype(float)
    image = torch.empty(3, 224, 224)
    # timm's range, which ours follows: 0.02 to 1/3; torchvision's default ends at 0.33.
    theirs = np.array([
        transforms.RandomErasing.get_params(image, (0.02, 1 / 3), (0.3, 3.3), [0.0])[2:4] for _ in range(N)
    ], float)  # fmt: skip
    assert abs(len(erased) / (2 * N) - 0.5) < 5 * 0.5 / math.sqrt(2 * N)  # five standard errors of the rate
    assert_alike(erased.prod(axis=1), theirs.prod(axis=1))
    assert_alike(erased[:, 0] / erased[:, 1], theirs[:, 0] / theirs[:, 1])


def test_jitter_factors() -> None:
    ours = draw(TrainTransform(32, color_jitter=0.4), 0, 0, np.arange(N)).color
    span = (0.6, 1.4)
    theirs = np.array([transforms.ColorJitter.get_params(span, span, span, None)[1:4] for _ in range(N)], float)
    for column in range(3):
        assert_alike(ours[:, column], theirs[:, column])


def test_flips() -> None:
    rate = draw(TrainTransform(32), 0, 0, np.arange(N)).flip.mean()
    assert abs(rate - 0.5) < 5 * 0.5 / math.sqrt(N)  # five standard errors


def test_numbers_of_different_purposes_and_images_are_independent() -> None:
    """Correlations of what augments an image: none above five standard errors."""
    draws = draw(TrainTransform(64, erase_prob=1.0), 0, 0, np.arange(N))
    numbers = uniform(0, 0, np.arange(N), Purpose.WINDOW, 4)
    area = draws.erase[:, 2] * draws.erase[:, 3]
    columns = np.column_stack([numbers, draws.color, draws.flip, area, np.roll(draws.color[:, 0], 1)])
    correlations = np.corrcoef(columns, rowvar=False) - np.eye(columns.shape[1])
    assert np.abs(correlations).max() < 5 / math.sqrt(N)
