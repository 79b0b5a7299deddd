"""Rating: how well every path of every cell reproduces the teacher, with batch norm calibrated along the path.

Source: the paper's section 3.3 for the ratings; calibration and modes as docs/semantics.md defines them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from dna_fast._files import read_json, write_json, written_aside
from dna_fast._loop import Loader
from dna_fast.supernet import Stem, Step, SteppedModule, StudentBlock, StudentCell, Supernet
from dna_fast.tables import METRICS, RatingTable
from dna_fast.teacher import Teacher

MODES = ("trie", "per_path")


OnProgress = Callable[[int, int], None]  # paths done, paths in all


@dataclass(frozen=True)
class Features:
    """Images and the teacher's features behind every block, in batches; kept on the device for the whole rating."""

    images: list[Tensor]  # per batch [N, 3, H, W]
    blocks: list[list[Tensor]]  # per block, per batch [N, C, H, W]

    def inputs(self, block: int) -> list[Tensor]:
        """A block's input per batch."""
        return self.images if block == 0 else self.blocks[block - 1]


def collect(teacher: Teacher, loader: Loader, device: torch.device, *, whole_batches: bool) -> Features:
    """Runs the teacher once over a loader.

    Args:
        whole_batches: drop a last batch that is smaller than the others.

    Raises:
        ValueError: no batch at all.
    """
    images, blocks = [], []
    for batch in loader.epoch(0):
        if whole_batches and len(batch.images) < loader.batch_size:
            continue
        images.append(batch.images.to(device))
        blocks.append(teacher(images[-1]))
    if not images:
        raise ValueError(f"rating: no batch of {loader.batch_size} images; use more images or a smaller batch")
    return Features(images, [list(per_batch) for per_batch in zip(*blocks, strict=True)])


class RatingStore:
    """Finished ratings on disk, so that an interrupted rating goes on where it stopped.

    A file holds the paths of one cell that begin with the same operator: with n operators, an interruption costs at most an n-th
    of a cell.

    Args:
        root: directory.
        identity: what the ratings depend on; ratings of another identity are discarded.
    """

    def __init__(self, root: Path, identity: str) -> None:
        self.root = root
        root.mkdir(parents=True, exist_ok=True)
        mark = root / "identity.json"
        if not mark.exists() or read_json(mark) != identity:
            for stale in root.glob("*.npy"):
                stale.unlink()
            write_json(mark, identity)

    def load(self, block: int, cell: int, operator: int, shape: tuple[int, int, int]) -> NDArray[np.float64] | None:
        """The ratings of a cell's paths that begin with `operator`, or None if they are not done.

        Args:
            shape: what they must have, [paths, batches, metrics].

        Raises:
            ValueError: a damaged file, or one of another shape.
        """
        path = self._path(block, cell, operator)
        if not path.exists():
            return None
        try:
            with open(path, "rb") as file:
                ratings: NDArray[np.float64] = np.lib.format.read_array(file, allow_pickle=False)
        except (OSError, EOFError, ValueError) as error:
            raise ValueError(f"{path}: damaged ({error}); delete it, and its paths are rated again") from error
        if ratings.shape != shape or ratings.dtype != np.float64:
            raise ValueError(
                f"{path}: damaged, expected float64 {shape}, got {ratings.dtype} {ratings.shape}; "
                "delete it, and its paths are rated again"
            )
        return ratings

    def save(self, block: int, cell: int, operator: int, ratings: NDArray[np.float64]) -> None:
        """Keeps ratings [paths, batches, metrics] of a cell's paths that begin with `operator`."""
        with written_aside(self._path(block, cell, operator)) as aside, open(aside, "wb") as file:
            np.save(file, ratings, allow_pickle=False)

    def _path(self, block: int, cell: int, operator: int) -> Path:
        return self.root / f"block_{block}_cell_{cell}_operator_{operator}.npy"


@contextmanager
def _without_tf32() -> Iterator[None]:
    """Convolutions and matrix products of float32 in float32 on GPUs too, for the time being.

    TF32 keeps 10 bits of the mantissa, and is on for convolutions by default: ratings would differ from the CPU's in the third digit.
    """
    conv = getattr(torch.backends.cudnn, "conv", None)
    # Torch 2.8 has but the old switches; from 2.9 on they warn, and mixing them with the new ones is an error.
    name, off = ("allow_tf32", False) if conv is None else ("fp32_precision", "ieee")
    switches = (torch.backends.cudnn if conv is None else conv, torch.backends.cuda.matmul)
    before = [getattr(switch, name) for switch in switches]
    try:
        for switch in switches:
            setattr(switch, name, off)
        yield
    finally:
        for switch, value in zip(switches, before, strict=True):
            setattr(switch, name, value)


@torch.no_grad()
def rate(
    supernet: Supernet,
    teacher: Teacher,
    calibration: Loader,
    rated: Loader,
    *,
    mode: str = "trie",
    metric: str = "relative_l1",
    provenance: Mapping[str, Any] | None = None,
    store: RatingStore | None = None,
    on_progress: OnProgress | None = None,
) -> RatingTable:
    """Rates every candidate of every block.

    Args:
        supernet: trained; its BN statistics are overwritten.
        teacher: its teacher, on the same device.
        calibration: loader of the calibration images (evaluation transform); all of them are used.
        rated: loader of the held-out images; a last partial batch is dropped.
        mode: "trie" (every operator prefix once) or "per_path" (one path at a time; the oracle).
        metric: the table's default rating.
        provenance: anything about teacher and data that the table should carry.
        store: finished ratings are kept there and taken from there.
        on_progress: called after every path.

    Returns:
        All four ratings with standard errors. Computed in the features' dtype without TF32, summed in float64;
        deterministic on the CPU. The metadata names the device and torch's version.

    Raises:
        ValueError: unknown mode or metric, no images, a teacher feature that is constant, ratings that are not finite.
    """
    if mode not in MODES:
        raise ValueError(f"rate: mode must be one of {', '.join(MODES)}, got {mode!r}")
    if metric not in METRICS:
        raise ValueError(f"rate: metric must be one of {', '.join(METRICS)}, got {metric!r}")
    device = next(supernet.parameters()).device
    supernet.eval()
    counter = _Counter(supernet, on_progress)
    blocks = []
    with _without_tf32():
        calibration_set = collect(teacher, calibration, device, whole_batches=False)
        rated_set = collect(teacher, rated, device, whole_batches=True)
        for b in range(len(supernet.blocks)):
            walk = _Walk(supernet.block(b), b, rated_set.blocks[b], mode, counter)
            parts = walk.rate_cells(calibration_set.inputs(b), rated_set.inputs(b), store)
            blocks.append(_records(np.concatenate(parts), b))
    metadata = {
        **(provenance or {}),
        "mode": mode,
        "boundary": supernet.boundary,
        "bn_policy": "calibrated along the path over the whole calibration set, unbiased variance",
        "calibration_images": sum(len(x) for x in calibration_set.images),
        "rated_images": sum(len(x) for x in rated_set.images),
        "batch_size": rated.batch_size,
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        "torch": str(torch.__version__),
    }
    return RatingTable(supernet.space, blocks, metric=metric, metadata=metadata)


class _Counter:
    def __init__(self, supernet: Supernet, on_progress: OnProgress | None) -> None:
        space = supernet.space
        self.total = sum(space.num_candidates(b) for b in range(len(space.blocks)))
        self.done, self.on_progress = 0, on_progress

    def add(self, paths: int) -> None:
        self.done += paths
        if self.on_progress is not None:
            self.on_progress(self.done, self.total)


@dataclass(frozen=True)
class _Target:
    """A teacher feature and the statistics that ratings divide by, over all of a batch's elements."""

    feature: Tensor  # [N, C, H, W]
    var: float
    mean_abs: float


class _Walk:
    """Rates the cells of one block."""

    def __init__(
        self, block: StudentBlock, index: int, targets: Sequence[Tensor], mode: str, counter: _Counter
    ) -> None:
        self.block, self.index, self.mode, self.counter = block, index, mode, counter
        self.targets = [_target(t, index) for t in targets]

    def rate_cells(
        self, calibration: list[Tensor], rated: list[Tensor], store: RatingStore | None
    ) -> list[NDArray[np.float64]]:
        """[paths, batches, metrics] per cell and first operator."""
        if isinstance(self.block.stem, Stem):
            calibration, rated = self._through_stem(self.block.stem, calibration, rated)
        return [part for c in range(len(self.block.cells)) for part in self._rate_cell(c, calibration, rated, store)]

    def _through_stem(
        self, stem: Stem, calibration: list[Tensor], rated: list[Tensor]
    ) -> tuple[list[Tensor], list[Tensor]]:
        if self.mode == "trie":
            hidden = [torch.nn.functional.silu(h) for h in calibrate(stem.conv, calibration)]
            return calibrate(stem.ds, hidden), [stem(x) for x in rated]
        calibrate_plainly([*stem.conv.steps(), *stem.ds.steps()], stem, calibration)
        return [stem(x) for x in calibration], [stem(x) for x in rated]

    def _rate_cell(
        self, index: int, calibration: list[Tensor], rated: list[Tensor], store: RatingStore | None
    ) -> Iterator[NDArray[np.float64]]:
        cell = self.block.cell(index)
        depth, choices = len(cell.layers), len(cell.layers[0])  # type: ignore[arg-type]
        shape = (choices ** (depth - 1), len(rated), len(METRICS))
        if self.mode == "trie":
            calibration, rated = [cell.in_adapter(x) for x in calibration], [cell.in_adapter(x) for x in rated]
        walk = self._descend if self.mode == "trie" else self._path_by_path
        for operator in range(choices):
            ratings = store.load(self.index, index, operator, shape) if store is not None else None
            if ratings is None:
                ratings = np.stack(list(walk(cell, (operator,), calibration, rated)))
                if store is not None:
                    store.save(self.index, index, operator, ratings)
            else:
                self.counter.add(len(ratings))
            yield ratings

    def _descend(
        self, cell: StudentCell, prefix: tuple[int, ...], calibration: list[Tensor], rated: list[Tensor]
    ) -> Iterator[NDArray[np.float64]]:
        """Rates the paths that begin with `prefix`, in index order, from the features in front of its last operator.

        Depth first: at most one set of features per layer is alive.
        """
        last = len(prefix) == len(cell.layers)
        layer = cell.operator(len(prefix) - 1, prefix[-1])
        after = calibrate(layer, calibration, need_output=not last)
        outputs = [layer(x) for x in rated]
        if last:
            yield self._ratings(cell.out_adapter, outputs)
            self.counter.add(1)
            return
        for choice in range(len(cell.layers[len(prefix)])):  # type: ignore[arg-type]
            yield from self._descend(cell, (*prefix, choice), after, outputs)

    def _path_by_path(
        self, cell: StudentCell, prefix: tuple[int, ...], calibration: list[Tensor], rated: list[Tensor]
    ) -> Iterator[NDArray[np.float64]]:
        """Rates the paths that begin with `prefix`, in index order, each from the cell's input."""
        choices = len(cell.layers[0])  # type: ignore[arg-type]
        for rest in np.ndindex(*(choices,) * (len(cell.layers) - len(prefix))):
            path = (*prefix, *rest)
            layers = [cell.operator(d, c) for d, c in enumerate(path)]
            steps = [step for layer in layers for step in layer.steps()]
            calibrate_plainly(steps, partial(cell, path=path), calibration)
            yield self._ratings(nn.Identity(), [cell(x, path) for x in rated])
            self.counter.add(1)

    def _ratings(self, adapter: nn.Module, outputs: Sequence[Tensor]) -> NDArray[np.float64]:
        """[batches, metrics] from the sums of |d| and d^2 of every batch, in METRICS order."""
        sums = []
        for output, target in zip(outputs, self.targets, strict=True):
            d = (adapter(output) - target.feature).flatten()
            sums.append(
                torch.stack((d.abs().sum(dtype=torch.float64), d.square().sum(dtype=torch.float64))) / d.numel()
            )
        rows = []
        for (mean_abs, mse), target in zip(torch.stack(sums).tolist(), self.targets, strict=True):
            values = {
                "mse": mse,
                "relative_mse": mse / target.var,
                "relative_l1": mean_abs / math.sqrt(target.var),
                "mean_relative_l1": mean_abs / target.mean_abs,
            }
            rows.append([values[name] for name in METRICS])
        return np.array(rows)


def _target(feature: Tensor, block: int) -> _Target:
    var, _ = torch.var_mean(feature.double().flatten(), correction=1)
    if not float(var) > 0:
        raise ValueError(
            f"rate: the teacher's feature behind block {block} is constant over a batch (variance {float(var)}); check its weights and cuts"
        )
    return _Target(feature, float(var), float(feature.double().abs().mean()))


def _records(ratings: NDArray[np.float64], block: int) -> NDArray[Any]:
    """[paths, batches, metrics] -> structured array [paths] with mean and standard error of every metric."""
    paths, batches, _ = ratings.shape
    records = np.empty(paths, dtype=[(field, np.float64) for name in METRICS for field in (name, f"{name}_se")])
    for m, name in enumerate(METRICS):
        records[name] = ratings[:, :, m].mean(axis=1)
        # A single batch has no spread to estimate from: its standard error is unknown, not zero.
        spread = ratings[:, :, m].std(axis=1, ddof=1) if batches > 1 else np.full(paths, np.nan)
        records[f"{name}_se"] = spread / math.sqrt(batches)
    bad = np.flatnonzero(~np.isfinite(ratings).all(axis=(1, 2)))
    if len(bad):
        raise ValueError(
            f"rate: candidate {bad[0]} of block {block} has a rating that is not finite; the supernet's weights have "
            "diverged, train with lower learning rates"
        )
    return records


# ---- calibration ----------------------------------------------------------------------------------------------------


def calibrate(module: SteppedModule, batches: Sequence[Tensor], *, need_output: bool = True) -> list[Tensor]:
    """Sets every BN of a layer to the statistics of its input over all batches, one convolution after the other.

    Args:
        module: the layer; its BN statistics are overwritten.
        batches: the calibration set at its input, per batch [N, C, H, W].
        need_output: False skips the output behind the last batch norm.

    Returns:
        The layer's output per batch (without any activation behind it), or an empty list.
    """
    hidden = list(batches)
    steps = module.steps()
    for number, (compute, norm) in enumerate(steps, start=1):
        hidden = [compute(h) for h in hidden]
        _set_statistics(norm, hidden)
        if number == len(steps) and not need_output:
            return []
        hidden = [norm(h) for h in hidden]
    return [h + x for h, x in zip(hidden, batches, strict=True)] if module.has_residual else hidden


def _set_statistics(norm: nn.BatchNorm2d, batches: Sequence[Tensor]) -> None:
    """Mean and unbiased variance over all batches, merged in float64 (Chan, Golub and LeVeque's pairwise update)."""
    # On the features' device: a copy to the host would wait for the device after every batch.
    mean = torch.zeros(norm.num_features, dtype=torch.float64, device=batches[0].device)
    count, m2 = 0, torch.zeros_like(mean)
    for x in batches:
        var, batch_mean = torch.var_mean(x, dim=(0, 2, 3), correction=0)
        n = x.numel() // x.shape[1]
        delta = batch_mean.double() - mean
        mean = mean + delta * (n / (count + n))
        m2 = m2 + var.double() * n + delta.square() * (count * n / (count + n))
        count += n
    _write(norm, mean, m2, count)


def calibrate_plainly(
    steps: Sequence[Step],
    forward: Callable[[Tensor], Tensor],
    batches: Sequence[Tensor],
) -> None:
    """The same statistics the obvious way: for every BN in order, run everything from the start and look at its input.

    Kept free of the trie's code, because it is what the trie is checked against.
    """
    for _, norm in steps:
        seen: list[Tensor] = []
        hook = norm.register_forward_pre_hook(lambda _, args, seen=seen: seen.append(args[0]))  # type: ignore[misc]
        try:
            for x in batches:
                forward(x)
        finally:
            hook.remove()
        values = torch.cat(seen).double().cpu().transpose(0, 1).flatten(1)  # [C, N * H * W]
        _write(norm, values.mean(1), (values - values.mean(1, keepdim=True)).square().sum(1), values.shape[1])


def _write(norm: nn.BatchNorm2d, mean: Tensor, m2: Tensor, count: int) -> None:
    if count < 2:
        raise ValueError(f"calibration: a batch norm saw {count} value per channel; use more calibration images")
    assert norm.running_mean is not None
    assert norm.running_var is not None
    norm.running_mean.copy_(mean)
    norm.running_var.copy_(m2 / (count - 1))
