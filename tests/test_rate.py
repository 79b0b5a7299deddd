"""The trie against one path at a time, ratings against their definition, resuming, the table."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from toy import SPACE, ToyBatch, ToyLoader, toy_supernet, toy_teacher

from dna_fast.rate import RateOptions, RateProgress, rate
from dna_fast.rating_store import RatingStore
from dna_fast.tables import METRICS, RatingTable


def _calibration() -> ToyLoader:
    return ToyLoader([8, 8, 5], seed=1)  # a last partial batch takes part


def _rated() -> ToyLoader:
    return ToyLoader([8, 8, 8, 3], seed=2)  # a last partial batch is dropped


def _loaders() -> tuple[ToyLoader, ToyLoader]:
    return _calibration(), _rated()


def _rate(boundary: str, mode: str, **kwargs: object) -> RatingTable:
    return rate(toy_supernet(boundary), toy_teacher(), _loaders(), RateOptions(mode), **kwargs)  # type: ignore[arg-type]


@pytest.mark.parametrize("random_norms", [False, True], ids=["fresh_norms", "random_norms"])
@pytest.mark.parametrize("padding", ["symmetric", "same"])
@pytest.mark.parametrize("boundary", ["adapter", "wide"])
def test_trie_equals_per_path(boundary: str, padding: str, random_norms: bool) -> None:
    trie, per_path = (
        rate(
            toy_supernet(boundary, padding=padding, random_norms=random_norms),
            toy_teacher(),
            _loaders(),
            RateOptions(mode),
        )
        for mode in ("trie", "per_path")
    )
    for b in range(len(SPACE.blocks)):
        for name in trie.blocks[b].dtype.names:
            np.testing.assert_allclose(
                trie.blocks[b][name], per_path.blocks[b][name], rtol=1e-5 if "_se" not in name else 1e-3
            )
    assert trie.metadata["mode"] == "trie"
    assert trie.metadata["rated_images"] == 24
    assert trie.metadata["calibration_images"] == 21


@pytest.mark.parametrize("boundary", ["adapter", "wide"])
def test_ratings_by_hand(boundary: str) -> None:
    """One candidate of each cell: every batch norm takes the statistics of whatever reaches it, then ratings by formula."""
    table = _rate(boundary, "trie")
    supernet, teacher = toy_supernet(boundary).eval(), toy_teacher()
    calibration = torch.cat([batch.images for batch in _calibration().epoch(0)])
    rated = [batch.images for batch in _rated().epoch(0)][:3]
    for b, cell, path in [(0, 0, (2,)), (0, 1, (1, 0, 2)), (1, 0, (0, 2, 1)), (1, 1, (2, 2))]:
        block = supernet.block(b)
        hooks = [
            norm.register_forward_pre_hook(_take_statistics)
            for norm in block.modules()
            if isinstance(norm, torch.nn.BatchNorm2d)
        ]
        with torch.no_grad():
            block.cell(cell)(block.stem(calibration if b == 0 else teacher(calibration)[0]), path)
            for hook in hooks:
                hook.remove()
            per_batch = {name: [] for name in METRICS}
            for images in rated:
                target = teacher(images)[b]
                d = block.cell(cell)(block.stem(images if b == 0 else teacher(images)[0]), path) - target
                per_batch["mse"].append(d.square().mean().item())
                per_batch["relative_mse"].append((d.square().mean() / target.var()).item())
                per_batch["relative_l1"].append((d.abs().mean() / target.std()).item())
                per_batch["mean_relative_l1"].append((d.abs().mean() / target.abs().mean()).item())
        record = table.blocks[b][SPACE.candidate_index(b, cell, path)]
        for name in METRICS:
            np.testing.assert_allclose(record[name], np.mean(per_batch[name]), rtol=1e-4)
            np.testing.assert_allclose(record[f"{name}_se"], np.std(per_batch[name], ddof=1) / np.sqrt(3), rtol=1e-3)


def test_ratings_do_not_depend_on_the_calibration_batches() -> None:
    whole = rate(toy_supernet(), toy_teacher(), (ToyLoader([16], seed=3), _rated()))
    split = rate(toy_supernet(), toy_teacher(), (_Halves([16], seed=3), _rated()))
    for b in range(2):
        np.testing.assert_allclose(whole.blocks[b]["mse"], split.blocks[b]["mse"], rtol=1e-5)


def test_one_batch_has_no_standard_error() -> None:
    table = rate(toy_supernet(), toy_teacher(), (_calibration(), ToyLoader([8], seed=2)))
    assert np.isnan(table.blocks[0]["relative_l1_se"]).all()
    assert np.isfinite(table.blocks[0]["relative_l1"]).all()


@pytest.mark.parametrize(
    ("mode", "groups"),
    # Of the cells with 27 and 9 paths: the trie takes the last layer of a first operator's 3 or 1 prefixes in one call.
    [("trie", [*range(39, 58, 3), *range(58, 67)]), ("per_path", [*range(39, 67)])],
)
def test_an_interrupted_rating_goes_on_with_the_next_first_operator(
    tmp_path: Path, mode: str, groups: list[int]
) -> None:
    expected = _rate("adapter", mode)
    seen: list[int] = []

    def stop(progress: RateProgress) -> None:
        seen.append(progress.paths)
        if progress.paths == 45:  # inside the third cell, the paths that begin with its second operator
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        _rate("adapter", mode, store=RatingStore(tmp_path, "a"), on_progress=stop)
    seen.clear()
    store = RatingStore(tmp_path, "a")
    resumed = _rate("adapter", mode, store=store, on_progress=lambda progress: seen.append(progress.paths))
    # Two cells, of 3 and 27 paths, and the third cell's first operator came from the store.
    assert seen == groups
    assert all(np.array_equal(expected.blocks[b], resumed.blocks[b]) for b in range(2))
    # Finished, it computes nothing any more.
    seen.clear()
    again = _rate("adapter", mode, store=store, on_progress=lambda progress: seen.append(progress.paths))
    assert seen == [66]
    assert all(np.array_equal(expected.blocks[b], again.blocks[b]) for b in range(2))


def test_progress_weighs_paths_by_their_arithmetic() -> None:
    seen: list[RateProgress] = []
    _rate("adapter", "trie", on_progress=seen.append)
    assert seen[0] == RateProgress(0, 66, 0.0)
    assert seen[-1] == RateProgress(66, 66, 1.0)
    shares = [progress.share for progress in seen]
    assert shares == sorted(shares)
    # Against counting every distinct prefix of every cell's paths, squeeze-excite aside.
    macs = []
    for b, block in enumerate(SPACE.blocks):
        for c in range(len(block.cells)):
            paths = [tuple(path) for path in SPACE.paths(b, c)]
            layers = SPACE.layers(b, c)
            prefixes = {path[:length] for path in paths for length in range(1, len(layers) + 1)}
            specs = [(layers[len(p) - 1], SPACE.mbconv(layers[len(p) - 1], int(p[-1]))) for p in prefixes]
            macs.append(
                sum(
                    layer.in_size**2 * s.in_channels * s.mid_channels
                    + layer.out_size**2 * s.mid_channels * (s.kernel**2 + s.out_channels)
                    for layer, s in specs
                )
            )
    at = {progress.paths: progress.share for progress in seen}
    for cells, done in enumerate((3, 30, 57, 66), start=1):
        assert at[done] == pytest.approx(sum(macs[:cells]) / sum(macs), rel=1e-12)


def _tf32_switches() -> tuple[object, object]:
    """What torch has for matrix products and convolutions: an arithmetic by name, or in torch 2.8 whether TF32 may be used."""
    if hasattr(torch.backends.cudnn, "conv"):
        return torch.backends.cuda.matmul.fp32_precision, torch.backends.cudnn.conv.fp32_precision
    return torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32


def test_float32_is_not_tf32_while_rating() -> None:
    before, seen = _tf32_switches(), set()
    _rate("adapter", "trie", on_progress=lambda *_: seen.add(_tf32_switches()))
    assert seen in ({("ieee", "ieee")}, {(False, False)})
    assert _tf32_switches() == before
    with pytest.raises(ValueError, match="no batch of 8 images"):
        rate(toy_supernet(), toy_teacher(), (_calibration(), _Short()))
    assert _tf32_switches() == before


def test_the_table_names_device_and_torch() -> None:
    metadata = _rate("adapter", "trie").metadata
    assert metadata["device"] == "cpu"
    assert metadata["torch"] == torch.__version__


def test_errors() -> None:
    with pytest.raises(ValueError, match="mode must be one of trie, per_path, official, got 'fast'"):
        RateOptions("fast")
    with pytest.raises(ValueError, match="metric must be one of"):
        RateOptions(metric="l7")
    with pytest.raises(ValueError, match="max_memory_bytes must be > 0, got 0"):
        RateOptions(max_memory_bytes=0)
    with pytest.raises(ValueError, match="no batch of 8 images"):
        rate(toy_supernet(), toy_teacher(), (_calibration(), _Short()))


def _take_statistics(norm: torch.nn.BatchNorm2d, args: tuple[torch.Tensor]) -> None:
    x = args[0].double()
    norm.running_mean.copy_(x.mean((0, 2, 3)))
    norm.running_var.copy_(x.var((0, 2, 3), correction=1))


class _Halves(ToyLoader):
    def epoch(self, epoch: int, start_batch: int = 0) -> Iterator[ToyBatch]:
        for batch in super().epoch(epoch, start_batch):
            yield from (ToyBatch(part) for part in batch.images.chunk(2))


class _Short(ToyLoader):
    """Its only batch is a partial one."""

    def __init__(self) -> None:
        super().__init__([3])
        self.batch_size = 8


def test_a_constant_teacher_is_named() -> None:
    teacher = toy_teacher()
    with torch.no_grad():
        for p in teacher.parameters():
            p.zero_()
    with pytest.raises(ValueError, match="behind block 0 is constant"):
        rate(toy_supernet(), teacher, _loaders())


def test_a_diverged_supernet_is_named() -> None:
    supernet = toy_supernet()
    with torch.no_grad():
        supernet.block(1).cell(1).operator(1, 2).conv_pwl.weight.fill_(float("inf"))
    with pytest.raises(ValueError, match=r"candidate 29 of block 1 has a rating that is not finite"):
        rate(supernet, toy_teacher(), _loaders())
