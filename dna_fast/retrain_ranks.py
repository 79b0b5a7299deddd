"""The training of a classifier on many ranks: each on its part of every batch, one result, the same bits on all of them.

Gradients are averaged in buckets that travel while the backward pass computes the next; so are the running statistics of the batch
norms, every update. Buckets are cut once and in one order: a training that went on has the bits of one that was not stopped.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.hooks import RemovableHandle

from dna_fast import retrain_norms
from dna_fast._loop import Loader
from dna_fast.distill import FeatureDistiller
from dna_fast.parallel import Grid, PeerFailed, World
from dna_fast.recipe import Accuracy, Recipe, count_correct
from dna_fast.retrain_step import EpochRecord, FitResult, LossNotFinite, Training

BUCKET_BYTES = 1 << 23  # of gradients: few enough to begin early, enough that an exchange is more than its latency
_DROPPING = 2  # tells the numbers of dropout from those that mix images
_NEVER = torch.iinfo(torch.int64).max


def check_share(recipe: Recipe, ranks: int) -> None:
    """Refuses a batch that so many ranks cannot share.

    Raises:
        ValueError: it is no multiple.
    """
    if recipe.batch_size % ranks:
        lower, upper = (recipe.batch_size // ranks + more for more in (0, 1))
        near = " or ".join(str(ranks * images) for images in (lower, upper) if images)
        raise ValueError(
            f"retrain.batch_size: {recipe.batch_size} images are the batch of all ranks together, and {ranks} ranks cannot share them "
            f"equally; take {near} (and lr in proportion), or another number of ranks"
        )


class RankTraining(Training):
    """What `Training` does, as one of many ranks.

    Args:
        world: all ranks; each makes its training at the same time, and calls its methods in the same order.
        the others: as of `Training`; the model's weights are those of rank 0.
    """

    def __init__(
        self,
        model: nn.Module,
        recipe: Recipe,
        seed: int,
        updates_per_epoch: int,
        device: torch.device,
        distiller: FeatureDistiller | None = None,
        *,
        world: World,
    ) -> None:
        self.world, self.grid = world, world.together
        if recipe.sync_bn:
            model = retrain_norms.share_norms(model)
        super().__init__(model, recipe, seed, updates_per_epoch, device, distiller)
        if recipe.sync_bn:
            retrain_norms.attach(model, self.grid)
        world.take_leaders([t for module in self._modules().values() for t in module.state_dict().values()])
        self.gradients = GradientBuckets(list(self.trained.parameters()), self.grid)
        if distiller is not None:
            distiller.begin_variances = self._begin_variances
        self.first_bad = torch.full((), _NEVER, device=device)  # the update whose own loss was the first not finite

    # ---- an update --------------------------------------------------------------------------------------------------

    def _drop_seed(self) -> tuple[int, ...]:
        """Images of two ranks are dropped out differently."""
        return self.seed, self.step, _DROPPING, self.world.rank

    def _begin_variances(self, targets: Sequence[Tensor]) -> Callable[[], list[Tensor]]:
        """The variances of the whole batch's features, not of this rank's part; they travel while the network computes."""
        means = torch.stack([t.float().mean().double() for t in targets])
        squares = torch.stack([t.float().var(correction=0).double() for t in targets]) + means.square()
        finish = self.grid.begin_average([means, squares])
        counts = [t.numel() * self.world.size for t in targets]

        def variances() -> list[Tensor]:
            finish()
            found = squares - means.square()
            return [(found[block] * count / (count - 1)).float() for block, count in enumerate(counts)]

        return variances

    def _after_forward(self, loss: Tensor) -> None:
        bad = torch.where(loss.isfinite(), _NEVER, self.step + 1)
        self.first_bad = torch.minimum(self.first_bad, bad)
        self._loss = loss.reshape(1).clone()
        self._end_statistics = self.grid.begin_average([self._loss, *self._running_statistics()])
        self.gradients.begin()

    def _running_statistics(self) -> list[Tensor]:
        """What this rank's part of the batch has moved, and the others' parts have not."""
        norms = [m for m in self.model.modules() if isinstance(m, _BatchNorm) and m.training]
        if self.recipe.sync_bn:
            return []
        return [t for m in norms for t in (m.running_mean, m.running_var) if t is not None]

    def _after_backward(self, loss: Tensor) -> Tensor:
        self._end_statistics()
        self.gradients.end()
        return self._loss[0]

    def mean_loss(self) -> float:
        try:
            return super().mean_loss()
        except LossNotFinite as error:  # on all ranks alike, for the loss is that of all
            first = [int(step) for step in self.world.gather(int(self.first_bad))]
            if self.world.rank != first.index(min(first)):
                raise PeerFailed from error
            where = f". It was first so in step {min(first)}, on this rank" if min(first) < _NEVER else ""
            raise LossNotFinite(f"{error}{where}") from error

    # ---- together ---------------------------------------------------------------------------------------------------

    def wish(self, is_interrupted: bool, checkpoint_minutes: float) -> int:
        """What rank 0 decides; asked to stop by any."""
        if is_interrupted:
            self.world.ask_to_stop()
        flags = 0
        if self.world.is_leader:
            flags = super().wish(self.world.asked_to_stop(), checkpoint_minutes)
        return self.grid.agree(flags)

    def stop(self) -> None:
        self.world.stopped_together = True
        super().stop()

    def finish_epoch(self, eval_loader: Loader) -> EpochRecord:
        """Time is rank 0's, that all have the same record."""
        record = super().finish_epoch(eval_loader)
        self.history[-1] = replace(record, seconds=self.world.told_by_leader(record.seconds))
        return self.history[-1]

    def _evaluate(self, model: nn.Module, loader: Loader) -> Accuracy:
        """Every rank judges its part of the images; the counts are summed."""
        counts = self.world.gather(list(count_correct(model, loader, self.device)))
        correct, total = (sum(values) for values in zip(*counts, strict=True))
        return Accuracy(correct, total)

    def go_on(self, path: Path) -> None:
        """Rank 0 looks for a checkpoint, and all read that one."""
        found = None
        if self.world.is_leader and path.exists():
            file, words = self.load_newest(path)
            found = [file.name, words]
        told = self.world.told_by_leader(found)
        if told is None or self.world.is_leader:
            return
        path = path.with_name(told[0])
        if not path.exists():
            raise ValueError(f"{path}: rank 0 has this checkpoint; all ranks must see the run directory")
        if (own := self.load(path)) != told[1]:
            raise ValueError(
                f"{path}: of {own} here, rank 0 reads {told[1]}; all ranks must see the same run directory"
            )

    def save(self, path: str | Path | None) -> None:
        if path is not None:
            self._check_replicas()
        super().save(path)

    def _write(self, path: str | Path) -> None:
        """Rank 0 writes; where it cannot, it says so when all have heard that the job ends."""
        failure: OSError | None = None
        if self.world.is_leader:
            try:
                super()._write(path)
            except OSError as error:
                failure = error
        has_failed = self.world.told_by_leader(failure is not None)
        if failure is not None:
            raise failure
        if has_failed:
            raise PeerFailed

    def _check_replicas(self) -> None:
        """Ranks start alike and take the same steps, so all they hold is the same bits; a machine that miscomputes shows here."""
        own = [float(sum(t.detach().double().sum() for t in m.state_dict().values())) for m in self._modules().values()]
        sums = self.world.gather([repr(value) for value in own])  # nan, too, must be equal to itself
        odd = [rank for rank, theirs in enumerate(sums) if theirs != sums[0]]
        if not odd:
            return
        if self.world.rank != odd[0]:
            raise PeerFailed
        raise RuntimeError(
            f"fit: after step {self.step} weights differ from those of rank 0; no checkpoint was written. A machine may be "
            "miscomputing: check it, then give the same command again"
        )

    def result(self) -> FitResult:
        self.gradients.detach()
        retrain_norms.detach(self.model)
        return super().result()


class GradientBuckets:
    """Averages gradients over ranks while the backward pass still computes others.

    Args:
        parameters: those that train, in the order of the forward pass: the last ones' gradients come first.
        grid: whose replicas average.
    """

    def __init__(self, parameters: Sequence[Tensor], grid: Grid) -> None:
        self.grid = grid
        self.buckets: list[list[Tensor]] = [[]]
        taken = 0
        for p in reversed([p for p in parameters if p.requires_grad]):
            if taken and taken + p.nbytes > BUCKET_BYTES:
                self.buckets.append([])
                taken = 0
            self.buckets[-1].append(p)
            taken += p.nbytes
        self._bucket = {p: number for number, bucket in enumerate(self.buckets) for p in bucket}
        self._handles: list[RemovableHandle] = []
        for p in self._bucket:
            self._handles.append(p.register_post_accumulate_grad_hook(self._arrived))  # type: ignore[no-untyped-call]
        self.begin()

    def begin(self) -> None:
        """Before a backward pass."""
        self._missing = [len(bucket) for bucket in self.buckets]
        self._ends: list[Callable[[], None]] = []

    def _arrived(self, p: Tensor) -> None:
        self._missing[self._bucket[p]] -= 1
        # In their order, which all ranks must share, whatever order gradients arrive in.
        while len(self._ends) < len(self.buckets) and not self._missing[len(self._ends)]:
            self._send()

    def _send(self) -> None:
        gradients = [p.grad for p in self.buckets[len(self._ends)] if p.grad is not None]
        self._ends.append(self.grid.begin_average(gradients) if gradients else lambda: None)

    def end(self) -> None:
        """Behind the backward pass: every gradient is the mean of all ranks'. What has none, on no rank, holds nothing up."""
        while len(self._ends) < len(self.buckets):
            self._send()
        for end in self._ends:
            end()

    def detach(self) -> None:
        """Leaves the parameters as they were."""
        for handle in self._handles:
            handle.remove()
