"""Rating along the trie of paths: every operator prefix is computed and calibrated once, many prefixes at a time.

A group is some prefixes of one length, stacked in the batch. Every operator of the next layer sees a group in one set of calls, and
what it makes of them is a group again: as wide as memory allows, and walked depth first.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from dna_fast.calibration import Covariance, calibrate, image_statistics, pointwise_statistics, tree_sum
from dna_fast.ops.mbconv import Affine
from dna_fast.rate_features import Features, Target
from dna_fast.rate_operators import Norms, Operator, prepare
from dna_fast.rate_plan import CellMemory, LayerBytes, Plan
from dna_fast.supernet import Stem, StudentBlock
from dna_fast.tables import METRICS

OnPaths = Callable[[int], None]  # how many further paths are rated

_FLOAT, _DOUBLE = 4, 8  # bytes


@dataclass(frozen=True)
class _Group:
    """Prefixes of one length and the features behind them, prefix after prefix, channels-last."""

    prefixes: NDArray[np.int64]  # [P] numbers among all prefixes of their length
    calibration: Tensor  # [P * Nc, C, H, W]
    rated: Tensor  # [P * Nr, C, H, W]

    def __len__(self) -> int:
        return len(self.prefixes)

    def part(self, start: int, stop: int) -> _Group:
        """Some of the prefixes, as views."""
        stop = min(stop, len(self))
        calibration, rated = (
            x[len(x) // len(self) * start : len(x) // len(self) * stop] for x in (self.calibration, self.rated)
        )
        return _Group(self.prefixes[start:stop], calibration, rated)


class Trie:
    """Mode `trie` on one block.

    Args:
        block: a student block; its stem's BN statistics are overwritten, the operators' are only computed.
        index: its number.
        calibration, rated: images and features.
        max_bytes: what features, depthwise results and outputs may take at once; see `CellMemory`.
        on_paths: called whenever paths are done.

    Raises:
        ValueError: a teacher feature that is constant over a batch.
    """

    def __init__(
        self,
        block: StudentBlock,
        index: int,
        calibration: Features,
        rated: Features,
        max_bytes: int,
        on_paths: OnPaths,
    ) -> None:
        self.block, self.index, self.max_bytes, self.on_paths = block, index, max_bytes, on_paths
        self.target = Target(rated.blocks[index], rated.batch_size, index)
        self.target.check()
        self.inputs = (calibration.inputs(index), rated.inputs(index))
        self.batch_size = rated.batch_size
        if isinstance(block.stem, Stem):
            first, second = block.stem.ds.steps()
            silu = nn.functional.silu
            steps = (*block.stem.conv.steps(), (lambda h: first[0](silu(h)), first[1]), second)
            calibrate(steps, torch.split(calibration.images, calibration.batch_size))
            self.inputs = self._in_batches(block.stem)

    def rate_cell(self, index: int, operators: Sequence[int]) -> Iterator[NDArray[np.float64]]:
        """Per first operator the ratings [paths, batches, metrics] of the cell's paths that begin with it, in index order.

        Raises:
            ValueError: more memory is needed than there may be.
        """
        cell = self.block.cell(index)
        choices = len(cell.layers[0])  # type: ignore[arg-type]
        layers = [[prepare(cell.operator(d, c)) for c in range(choices)] for d in range(len(cell.layers))]
        owned = not isinstance(cell.in_adapter, nn.Identity)
        memory = _cell_memory(layers, self.inputs, counts_input=owned or self.index == 0)
        try:
            plan = memory.plan(self.max_bytes)
        except ValueError as error:
            raise ValueError(f"rate: block {self.index} cell {index} {error}") from error
        root = _Group(np.zeros(1, np.int64), *(self._in_batches(cell.in_adapter) if owned else self.inputs))
        walk = _Walk(layers, plan, self.target, _matrix(cell.out_adapter), self.on_paths)
        covariances = [Covariance.of(root.calibration)]
        for operator in operators:
            yield walk.rate(root, covariances, operator)

    def _in_batches(self, module: nn.Module) -> tuple[Tensor, Tensor]:
        """The inputs behind a module, which sees a batch at a time."""
        calibration, rated = (_in_batches(module, x, self.batch_size) for x in self.inputs)
        return calibration, rated


class _Walk:
    """One cell's trie.

    Args:
        layers: per layer its operators, prepared.
        plan: how wide a group may be.
        target: what outputs are compared with.
        adapter: weight [T, K] and bias [T] between cell and teacher, or None.
        on_paths: called whenever paths are done.
    """

    def __init__(
        self,
        layers: Sequence[Sequence[Operator]],
        plan: Plan,
        target: Target,
        adapter: tuple[Tensor, Tensor] | None,
        on_paths: OnPaths,
    ) -> None:
        self.layers, self.plan = layers, plan
        self.target, self.adapter, self.on_paths = target, adapter, on_paths
        self.choices = len(layers[0])
        # Per length the one place where groups are stacked; kept, as fresh memory costs a page fault every 4 KiB.
        self.rooms: dict[int, tuple[Tensor, Tensor]] = {}

    def rate(self, root: _Group, covariances: Sequence[Covariance], operator: int) -> NDArray[np.float64]:
        """[paths, batches, metrics] of the paths that begin with an operator, in index order."""
        paths = self.choices ** (len(self.layers) - 1)
        ratings = np.empty((paths, len(self.target.batches), len(METRICS)))
        self._descend(root, covariances, 0, [operator], ratings)
        return ratings

    def _descend(
        self,
        group: _Group,
        covariances: Sequence[Covariance],
        depth: int,
        operators: Sequence[int],
        ratings: NDArray[np.float64],
    ) -> None:
        """Rates all paths through the group, which `depth` layers lie before, and then through one of the operators."""
        if depth == len(self.layers) - 1:
            for choice in operators:
                numbers = group.prefixes * self.choices + choice
                ratings[numbers % len(ratings)] = self._rate(group, covariances, self.layers[depth][choice])
                self.on_paths(len(group))
            return
        prefixes, width = self.plan.parts(depth, self.choices)
        for start in range(0, len(group), prefixes):
            part, its_own = group.part(start, start + prefixes), covariances[start : start + prefixes]
            for first in range(0, len(operators), width):
                child = self._children(part, its_own, depth, operators[first : first + width])
                below = [Covariance.of(x) for x in child.calibration.chunk(len(child))]
                self._descend(child, below, depth + 1, range(self.choices), ratings)
                del child, below  # before their memory is asked for again

    def _children(
        self, group: _Group, covariances: Sequence[Covariance], depth: int, operators: Sequence[int]
    ) -> _Group:
        """The group behind a layer: all prefixes through the first operator, then all through the second, and so on."""
        chosen = [self.layers[depth][choice] for choice in operators]
        numbers = np.concatenate([group.prefixes * self.choices + choice for choice in operators])
        if self.plan.groups[depth + 1] == 1:
            return _Group(numbers, *self._outputs(group, covariances, chosen[0], None))
        children = self._room(depth + 1, numbers, group, chosen[0])
        for i, operator in enumerate(chosen):
            self._outputs(group, covariances, operator, children.part(i * len(group), (i + 1) * len(group)))
        return children

    def _outputs(
        self, group: _Group, covariances: Sequence[Covariance], operator: Operator, into: _Group | None
    ) -> tuple[Tensor, Tensor]:
        """Calibration and rated features behind an operator, in a group of their own or copied into one that is there."""
        norms, y = self._calibrate(group, covariances, operator, need_output=True)
        assert y is not None
        residual = group.calibration if operator.has_residual else None
        calibration = _finish(y, norms[2], residual, y if into is None else into.calibration)
        del y  # before the rated outputs ask for memory
        rated = operator.forward(group.rated, norms)
        return calibration, rated if into is None else into.rated.copy_(rated)

    def _room(self, depth: int, numbers: NDArray[np.int64], above: _Group, operator: Operator) -> _Group:
        """Where the groups in front of layer `depth` are stacked, as large as `numbers` needs it."""
        if depth not in self.rooms:
            stacked = self.plan.groups[depth]
            self.rooms[depth] = (
                _empty_behind(above.calibration, operator, len(above.calibration) // len(above) * stacked),
                _empty_behind(above.rated, operator, len(above.rated) // len(above) * stacked),
            )
        calibration, rated = (room[: len(room) // self.plan.groups[depth] * len(numbers)] for room in self.rooms[depth])
        return _Group(numbers, calibration, rated)

    def _rate(self, group: _Group, covariances: Sequence[Covariance], operator: Operator) -> NDArray[np.float64]:
        """[P, batches, metrics] of the paths that end with the operator."""
        norms, _ = self._calibrate(group, covariances, operator, need_output=False)
        sums = operator.reduce(group.rated, norms, self.target.feature, self.adapter)
        per_batch = tree_sum(sums.view(len(sums), -1, self.target.batch_size, 3), 2)  # [P, batches, 3]
        means = (per_batch / self.target.batch_elements).cpu().numpy()
        return self.target.ratings(means[..., 1], means[..., 2])

    def _calibrate(
        self, group: _Group, covariances: Sequence[Covariance], operator: Operator, *, need_output: bool
    ) -> tuple[Norms, Tensor | None]:
        """The operator's batch norms with the statistics that reach them behind every prefix; and, where it is needed, what batch
        norm 3 reads of the calibration images [P * Nc, K, Q, R].
        """
        norm1 = operator.fold(1, pointwise_statistics(operator.pointwise, covariances))
        images = len(group.calibration) // len(group)
        halves = self._whole if images <= self.plan.slice_images else self._in_slices
        norm2, moments, y = halves(group, operator, norm1, need_output=need_output)
        norm3 = operator.fold(3, image_statistics(moments, len(group), _pixels_behind(group.calibration, operator)))
        return (norm1, norm2, norm3), y

    def _whole(
        self, group: _Group, operator: Operator, norm1: Affine, *, need_output: bool
    ) -> tuple[Affine, Tensor, Tensor | None]:
        """Batch norm 2, moments of the raw output, and it itself."""
        h, moments = operator.depthwise(group.calibration, norm1)
        norm2 = operator.fold(2, image_statistics(moments, len(group), h[0, 0].numel()))
        y, moments = operator.project(h, norm2)
        return norm2, moments, y if need_output else None

    def _in_slices(
        self, group: _Group, operator: Operator, norm1: Affine, *, need_output: bool
    ) -> tuple[Affine, Tensor, Tensor | None]:
        """The same of a single prefix in slices of its images. The depthwise half is computed twice: batch norm 2 needs all of its
        results, and memory holds a slice of them.
        """
        x, step = group.calibration, self.plan.slice_images
        moments = x.new_empty((len(x), 2, operator.mid_channels), dtype=torch.float64)
        for start in range(0, len(x), step):
            moments[start : start + step] = operator.depthwise(x[start : start + step], norm1)[1]
        norm2 = operator.fold(2, image_statistics(moments, 1, _pixels_behind(x, operator)))
        y = _empty_behind(x, operator, len(x)) if need_output else None
        moments = x.new_empty((len(x), 2, operator.out_channels), dtype=torch.float64)
        for start in range(0, len(x), step):
            h, _ = operator.depthwise(x[start : start + step], norm1)
            raw, moments[start : start + step] = operator.project(h, norm2)
            if y is not None:
                y[start : start + step].copy_(raw)
            del h, raw  # or they would be there beside the next slice's
        return norm2, moments, y


def _finish(y: Tensor, norm3: Affine, residual: Tensor | None, into: Tensor) -> Tensor:
    """Batch norm 3 per prefix of a raw output [P * N, K, Q, R], and the residual, into a tensor which may be y itself.

    One rounding per operation: a product and a sum in one might be contracted for some elements and not for others.
    """
    prefixes = len(norm3.scale)
    scale, shift = (a[:, None, :, None, None] for a in (norm3.scale, norm3.shift))
    finished = into.view(prefixes, -1, *into.shape[1:])
    torch.mul(y.view(finished.shape), scale, out=finished)
    finished.add_(shift)
    return into if residual is None else into.add_(residual)


def _in_batches(module: nn.Module, x: Tensor, batch_size: int) -> Tensor:
    """A module's output [N, ...] channels-last, a batch at a time."""
    batches = torch.split(x, batch_size)
    first = module(batches[0])
    whole = first.new_empty((len(x), *first.shape[1:])).contiguous(memory_format=torch.channels_last)
    for batch, place in zip(batches, torch.split(whole, batch_size), strict=True):
        place.copy_(module(batch))
    return whole


def _size_behind(size: Sequence[int], operator: Operator) -> tuple[int, ...]:
    """Rows and columns behind a layer."""
    return tuple(-(-pixels // operator.stride) for pixels in size)


def _pixels_behind(x: Tensor, operator: Operator) -> int:
    return math.prod(_size_behind(x.shape[2:], operator))


def _empty_behind(x: Tensor, operator: Operator, images: int) -> Tensor:
    """Room for a layer's output on `images` images like x's."""
    size = (images, operator.out_channels, *_size_behind(x.shape[2:], operator))
    return torch.empty(size, dtype=x.dtype, device=x.device, memory_format=torch.channels_last)


def _matrix(adapter: nn.Module) -> tuple[Tensor, Tensor] | None:
    """An output adapter's weight [T, K] and bias [T]; None for no adapter."""
    if not isinstance(adapter, nn.Conv2d):
        return None
    assert adapter.bias is not None
    return adapter.weight.flatten(1), adapter.bias


def _cell_memory(
    layers: Sequence[Sequence[Operator]], inputs: tuple[Tensor, Tensor], *, counts_input: bool
) -> CellMemory:
    """What every layer of a cell takes.

    Args:
        counts_input: whether the cell's input is a tensor of its own, and not the teacher's feature.
    """
    images = [len(x) for x in inputs]
    size: Sequence[int] = inputs[0].shape[2:]
    needs = []
    for depth, operators in enumerate(layers):
        any_of_them = operators[0]
        features = sum(images) * any_of_them.in_channels * math.prod(size) * _FLOAT if depth or counts_input else 0
        size = _size_behind(size, any_of_them)
        mid, values = max(o.mid_channels for o in operators), math.prod(size) * _FLOAT  # per image and channel
        needs.append(
            LayerBytes(
                features=features + any_of_them.in_channels**2 * _DOUBLE,
                hidden=mid * values,
                output=any_of_them.out_channels * values,
                moments=(mid + any_of_them.out_channels) * 2 * _DOUBLE,
            )
        )
    return CellMemory(needs, len(layers[0]), *images)
