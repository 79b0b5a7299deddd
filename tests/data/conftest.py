"""Photograph-like images made on the spot: smooth noise in odd sizes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("PIL", reason="needs Pillow")

from PIL import Image  # noqa: E402

SIZES = ((97, 131), (160, 120), (75, 75), (64, 201), (333, 250), (50, 49), (181, 90))  # width, height


def picture(width: int, height: int, seed: int) -> Image.Image:
    """Smooth colour noise with some grain, as a camera gives."""
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(0, 256, (7, 9, 3), dtype=np.uint8))
    smooth = np.asarray(coarse.resize((width, height), Image.Resampling.BICUBIC), np.float64)
    grain = rng.normal(0.0, 6.0, smooth.shape)
    return Image.fromarray(np.clip(np.rint(smooth + grain), 0, 255).astype(np.uint8))


@pytest.fixture(scope="session")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An image folder of 21 JPEGs in three classes, seven odd sizes each. Not to be changed by a test."""
    root = tmp_path_factory.mktemp("photos")
    for label, name in enumerate(("ape", "bee", "cat")):
        (root / name).mkdir()
        for k, (width, height) in enumerate(SIZES):
            picture(width, height, seed=10 * label + k).save(root / name / f"{k}.jpg", quality=95)
    return root
