"""Photograph-like images made on the spot."""

from __future__ import annotations

import numpy as np
from PIL import Image

SIZES = ((97, 131), (160, 120), (75, 75), (64, 201), (333, 250), (50, 49), (181, 90))  # width, height


def picture(width: int, height: int, seed: int) -> Image.Image:
    """Smooth colour noise with some grain, as a camera gives."""
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(0, 256, (7, 9, 3), dtype=np.uint8))
    smooth = np.asarray(coarse.resize((width, height), Image.Resampling.BICUBIC), np.float64)
    grain = rng.normal(0.0, 6.0, smooth.shape)
    return Image.fromarray(np.clip(np.rint(smooth + grain), 0, 255).astype(np.uint8))
