"""The image folder that the tests read."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An image folder of 21 JPEGs in three classes, seven odd sizes each. Not to be changed by a test."""
    pytest.importorskip("PIL", reason="needs Pillow")
    from data.pictures import SIZES, picture

    root = tmp_path_factory.mktemp("photos")
    for label, name in enumerate(("ape", "bee", "cat")):
        (root / name).mkdir()
        for k, (width, height) in enumerate(SIZES):
            picture(width, height, seed=10 * label + k).save(root / name / f"{k}.jpg", quality=95)
    return root
