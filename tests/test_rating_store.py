"""Finished ratings on disk: of whom they are, and what damage is said to be."""

from pathlib import Path

import numpy as np
import pytest

from dna_fast.rating_store import RatingStore


def test_a_store_of_another_identity_is_discarded(tmp_path: Path) -> None:
    RatingStore(tmp_path, "a").save(0, 0, 2, np.zeros((3, 3, 4)))
    assert RatingStore(tmp_path, "a").load(0, 0, 2, (3, 3, 4)) is not None
    assert RatingStore(tmp_path, "a").load(0, 0, 1, (3, 3, 4)) is None
    assert RatingStore(tmp_path, "b").load(0, 0, 2, (3, 3, 4)) is None


@pytest.mark.parametrize("damage", ["empty", "truncated", "header", "zip", "shape", "dtype"])
def test_a_damaged_store_is_named(tmp_path: Path, damage: str) -> None:
    store, file = RatingStore(tmp_path, "a"), tmp_path / "block_1_cell_0_operator_2.npy"
    store.save(1, 0, 2, np.zeros((9, 3, 4)))
    whole = file.read_bytes()
    if damage == "shape":
        store.save(1, 0, 2, np.zeros((9, 2, 4)))
    elif damage == "dtype":
        store.save(1, 0, 2, np.zeros((9, 3, 4), np.float32))  # type: ignore[arg-type]
    elif damage == "zip":
        np.savez(tmp_path / "other.npz", x=np.zeros(1))
        (tmp_path / "other.npz").replace(file)
    else:
        file.write_bytes({"empty": b"", "truncated": whole[:-1], "header": whole[:9] + b"?" + whole[10:]}[damage])
    with pytest.raises(ValueError, match=r"block_1_cell_0_operator_2\.npy: damaged.*delete it"):
        store.load(1, 0, 2, (9, 3, 4))
