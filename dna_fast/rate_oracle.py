"""Rating one path at a time with plain torch: the check of the trie, and the released procedure, its opponent.

Nothing here is shared with the trie but the formulas of the ratings and how a batch norm is given its statistics; nothing is clever.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from dna_fast.calibration import write_statistics
from dna_fast.rate_features import Features, Target
from dna_fast.supernet import Stem, Step, SteppedModule, StudentBlock, StudentCell

OnPaths = Callable[[int], None]  # how many further paths are rated


class PathByPath:
    """Mode `per_path`: every path is calibrated and rated on its own, from the cell's input.

    Args:
        block: a student block; its BN statistics are overwritten.
        index: its number.
        calibration, rated: images and features.
        on_paths: called after every path.
    """

    def __init__(
        self, block: StudentBlock, index: int, calibration: Features, rated: Features, on_paths: OnPaths
    ) -> None:
        self.block, self.on_paths = block, on_paths
        self.target = Target(rated.blocks[index], rated.batch_size, index)
        self.calibration = list(torch.split(calibration.inputs(index), calibration.batch_size))
        self.rated = list(torch.split(rated.inputs(index), rated.batch_size))
        if isinstance(block.stem, Stem):
            calibrate_plainly([*block.stem.conv.steps(), *block.stem.ds.steps()], block.stem, self.calibration)
            self.calibration = [block.stem(x) for x in self.calibration]
            self.rated = [block.stem(x) for x in self.rated]

    def rate_cell(self, index: int, operators: Sequence[int]) -> Iterator[NDArray[np.float64]]:
        """Per first operator the ratings [paths, batches, metrics] of the cell's paths that begin with it, in index order."""
        cell = self.block.cell(index)
        for operator in operators:
            yield np.stack([self._rate(cell, path) for path in _paths(cell, operator)])

    def _rate(self, cell: StudentCell, path: tuple[int, ...]) -> NDArray[np.float64]:
        steps = [step for layer, choice in enumerate(path) for step in cell.operator(layer, choice).steps()]
        calibrate_plainly(steps, partial(cell, path=path), self.calibration)
        ratings = _ratings([cell(x, path) for x in self.rated], self.target)
        self.on_paths(1)
        return ratings


class Official:
    """Mode `official`: the released procedure. For every path and every rated batch anew, batch norm takes the statistics of one
    training batch (momentum 1) in a pass in training mode, from the block's input; then the rated batch passes in evaluation mode.

    Differences from the released code: the teacher's features are given, computed once and not recalibrated; the one batch, as
    large as a rated one, is the first of the calibration images, with the evaluation transform, where the released loader
    draws and augments; weights, boundaries and ratings are this package's.

    Args:
        block: a student block; its BN statistics are overwritten.
        index: its number.
        calibration, rated: images and features.
        on_paths: called after every path.

    Raises:
        ValueError: fewer calibration images than a rated batch has.
    """

    def __init__(
        self, block: StudentBlock, index: int, calibration: Features, rated: Features, on_paths: OnPaths
    ) -> None:
        size = rated.batch_size
        if len(calibration.images) < size:
            raise ValueError(
                f"rate: mode official calibrates with one batch of {size} images, got {len(calibration.images)} calibration "
                "images; use more, or a smaller batch"
            )
        self.block, self.on_paths = block, on_paths
        self.target = Target(rated.blocks[index], size, index)
        self.calibration = calibration.inputs(index)[:size]
        self.rated = list(torch.split(rated.inputs(index), size))

    def rate_cell(self, index: int, operators: Sequence[int]) -> Iterator[NDArray[np.float64]]:
        """Per first operator the ratings [paths, batches, metrics] of the cell's paths that begin with it, in index order."""
        cell = self.block.cell(index)
        for operator in operators:
            yield np.stack([self._rate(cell, path) for path in _paths(cell, operator)])

    def _rate(self, cell: StudentCell, path: tuple[int, ...]) -> NDArray[np.float64]:
        outputs = []
        for x in self.rated:
            self._calibrate(cell, path)
            outputs.append(cell(self.block.stem(x), path))
        ratings = _ratings(outputs, self.target)
        self.on_paths(1)
        return ratings

    def _calibrate(self, cell: StudentCell, path: tuple[int, ...]) -> None:
        h = self.calibration
        if isinstance(self.block.stem, Stem):
            h = _train_norms(self.block.stem.ds, F.silu(_train_norms(self.block.stem.conv, h)))
        h = cell.in_adapter(h)
        for layer, choice in enumerate(path):
            h = _train_norms(cell.operator(layer, choice), h)


def calibrate_plainly(steps: Sequence[Step], forward: Callable[[Tensor], Tensor], batches: Sequence[Tensor]) -> None:
    """Calibration the obvious way: for every BN in order, run everything from the start and look at its input."""
    for _, norm in steps:
        seen: list[Tensor] = []
        hook = norm.register_forward_pre_hook(lambda _, args, seen=seen: seen.append(args[0]))  # type: ignore[misc]
        try:
            for x in batches:
                forward(x)
        finally:
            hook.remove()
        values = torch.cat(seen).double().cpu().transpose(0, 1).flatten(1)  # [C, N * H * W]
        write_statistics(norm, values.mean(1), (values - values.mean(1, keepdim=True)).square().sum(1), values.shape[1])


def _train_norms(module: SteppedModule, x: Tensor) -> Tensor:
    """The layer with BN in training mode, momentum 1: normalised by this batch's statistics, which are left behind."""
    h = x
    for compute, norm in module.steps():
        h = F.batch_norm(compute(h), norm.running_mean, norm.running_var, norm.weight, norm.bias, True, 1.0, norm.eps)
    return h + x if module.has_residual else h


def _paths(cell: StudentCell, operator: int) -> Iterator[tuple[int, ...]]:
    """The cell's paths that begin with `operator`, in index order."""
    choices = len(cell.layers[0])  # type: ignore[arg-type]
    for rest in np.ndindex(*(choices,) * (len(cell.layers) - 1)):
        yield operator, *rest


def _ratings(outputs: Sequence[Tensor], target: Target) -> NDArray[np.float64]:
    """[batches, metrics] of one path."""
    differences = [output - feature for output, feature in zip(outputs, target.batches, strict=True)]
    mean_abs = [float(d.abs().mean(dtype=torch.float64)) for d in differences]
    mse = [float(d.square().mean(dtype=torch.float64)) for d in differences]
    return target.ratings(np.array(mean_abs), np.array(mse))
