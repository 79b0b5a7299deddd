"""The trie's engine: the same bits however prefixes are grouped, within the memory that its plan counts."""

from __future__ import annotations

import weakref
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from toy import FRAME, SPACE, TEACHER_CHANNELS, ToyLoader, toy_teacher

from dna_fast import calibration, rate_trie
from dna_fast.rate import RateOptions, rate
from dna_fast.rate_features import collect
from dna_fast.rate_operators import Eager, Fused, Operator
from dna_fast.rate_plan import CellMemory, Plan
from dna_fast.rate_trie import Trie
from dna_fast.rating_store import RatingStore
from dna_fast.space import Block, Cell
from dna_fast.supernet import Supernet
from dna_fast.tables import RatingTable

# 81, 9 and 3 paths: at most 9 prefixes of a first operator are in front of a last layer.
DEEP = replace(SPACE, blocks=(Block(2, (Cell(4, 6),)), Block(1, (Cell(2, 8), Cell(1, 10)))))


def _supernet(boundary: str = "adapter", padding: str = "symmetric") -> Supernet:
    space = replace(DEEP, frame=replace(FRAME, padding=padding))
    supernet = Supernet(space, TEACHER_CHANNELS, boundary=boundary, bn_group=8, seed=0)
    generator = torch.Generator().manual_seed(7)
    for norm in supernet.modules():
        if isinstance(norm, nn.BatchNorm2d):
            nn.init.uniform_(norm.weight, 0.5, 1.5, generator)
            nn.init.uniform_(norm.bias, -0.5, 0.5, generator)
    return supernet


def _rate(options: RateOptions | None = None, boundary: str = "adapter", **kwargs: Any) -> RatingTable:
    loaders = ToyLoader([8, 8, 5], seed=1), ToyLoader([8, 8, 8, 3], seed=2)
    return rate(_supernet(boundary), toy_teacher(), loaders, options, **kwargs)


def _assert_equal(ours: RatingTable, theirs: RatingTable) -> None:
    assert all(np.array_equal(a, b) for a, b in zip(ours.blocks, theirs.blocks, strict=True))


@pytest.mark.parametrize("boundary", ["adapter", "wide"])
@pytest.mark.parametrize(
    ("width", "slice_images"),
    [(1, 1), (1, 4), (1, 20), (1, 21), (2, 21), (3, 21), (4, 21), (6, 21), (9, 21)],
)
def test_no_bit_depends_on_the_grouping(
    width: int, slice_images: int, boundary: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = _rate(boundary=boundary)
    monkeypatch.setattr(CellMemory, "plan", lambda self, _: self.walk(width, slice_images))
    _assert_equal(_rate(boundary=boundary), expected)


def test_max_memory_changes_the_plan_and_no_rating(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    expected, plans = _rate(), []
    choose = CellMemory.plan

    def spy(self: CellMemory, max_bytes: int) -> Plan:
        plans.append(choose(self, max_bytes))
        return plans[-1]

    monkeypatch.setattr(CellMemory, "plan", spy)
    with pytest.raises(KeyboardInterrupt):
        _rate(RateOptions(max_memory_bytes=10**9), store=RatingStore(tmp_path, "a"), on_progress=_stop_at(30))
    # The rest with little memory: what was interrupted may go on on a machine that has less.
    resumed = _rate(RateOptions(max_memory_bytes=220_000), store=RatingStore(tmp_path, "a"))
    _assert_equal(resumed, expected)
    assert plans[0].groups == (1, 1, 3, 9)
    assert plans[1].groups[-1] < 9


def test_too_little_memory_names_the_cell() -> None:
    with pytest.raises(
        ValueError, match=r"rate: block 0 cell 0 needs [\d,]+ bytes for one path .*got 1,000; allow more"
    ):
        _rate(RateOptions(max_memory_bytes=1000))


@pytest.mark.parametrize("padding", ["symmetric", "same"])
def test_plain_torch_rates_as_the_fused_operators(padding: str, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[Operator] = []
    expected = rate(_supernet(padding=padding), toy_teacher(), (ToyLoader([8, 5], seed=1), ToyLoader([8, 8], seed=2)))

    def eager(layer: Any) -> Operator:
        # Pieces of 5 images: neither whole prefixes nor the whole set.
        made.append(Eager(layer, max_bytes=5 * 6 * layer.conv_pw.out_channels * 16 * 4))
        return made[-1]

    monkeypatch.setattr(rate_trie, "prepare", eager)
    found = rate(_supernet(padding=padding), toy_teacher(), (ToyLoader([8, 5], seed=1), ToyLoader([8, 8], seed=2)))
    assert len(made) == 3 * (4 + 2 + 1)
    for ours, theirs in zip(found.blocks, expected.blocks, strict=True):
        np.testing.assert_allclose(ours["relative_l1"], theirs["relative_l1"], rtol=1e-5)
        np.testing.assert_allclose(ours["mse"], theirs["mse"], rtol=1e-5)


@pytest.mark.parametrize("rated_batches", [4, 24])
@pytest.mark.parametrize(
    ("width", "slice_images"), [(1, 1), (1, 128), (1, 256), (2, 256), (3, 256), (6, 256), (9, 256)]
)
def test_memory_stays_within_the_plan(
    width: int, slice_images: int, rated_batches: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(calibration, "PIECE_BYTES", 1 << 10)  # as small beside toy features as 4 MiB beside real ones
    plans: list[tuple[CellMemory, Plan]] = []
    weights: list[Tensor] = []

    def fused(layer: Any) -> Operator:
        operator = Fused(layer)
        weights.extend((operator.pointwise, operator.weights.packed))
        return operator

    monkeypatch.setattr(rate_trie, "prepare", fused)

    def plan(self: CellMemory, max_bytes: int) -> Plan:
        plans.append((self, self.walk(width, slice_images)))
        return plans[-1][1]

    monkeypatch.setattr(CellMemory, "plan", plan)
    calibration_set, rated_set = (
        collect(toy_teacher(), ToyLoader([64] * batches, seed=seed), torch.device("cpu"), whole_batches=True)
        for seed, batches in ((1, 4), (2, rated_batches))
    )
    supernet = _supernet().eval()
    with torch.no_grad():
        trie = Trie(supernet.block(0), 0, calibration_set, rated_set, 0, lambda paths: None)
        with _Meter() as meter:
            for _ in trie.rate_cell(0, [0, 2]):
                pass
    (memory, chosen) = plans[0]
    # The block's input was there before the meter ran; weights are not counted.
    counted = memory.peak_bytes(chosen) - sum(x.nbytes for x in trie.inputs)
    measured = meter.peak_bytes - sum(x.nbytes for x in weights)
    assert measured <= 1.02 * counted  # nor are a few numbers per image, channel and path
    assert measured >= 0.9 * counted  # and the count is no loose guess


class _Meter(TorchDispatchMode):
    """Adds up the storages that operators return, for as long as they live."""

    def __init__(self) -> None:
        super().__init__()
        self.alive: dict[int, int] = {}
        self.bytes = self.peak_bytes = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        given = {x.untyped_storage().data_ptr() for x in args if isinstance(x, Tensor)}
        for x in out if isinstance(out, tuple | list) else (out,):
            if isinstance(x, Tensor) and x.untyped_storage().data_ptr() not in given:
                self._add(x)
        return out

    def _add(self, x: Tensor) -> None:
        storage = x.untyped_storage()
        key = storage.data_ptr()
        if key in self.alive or storage.nbytes() == 0:
            return
        self.alive[key] = storage.nbytes()
        self.bytes += storage.nbytes()
        self.peak_bytes = max(self.peak_bytes, self.bytes)
        weakref.finalize(storage, self._remove, key)

    def _remove(self, key: int) -> None:
        self.bytes -= self.alive.pop(key)


def _stop_at(paths: int) -> Any:
    def stop(progress: Any) -> None:
        if progress.paths >= paths:
            raise KeyboardInterrupt

    return stop
