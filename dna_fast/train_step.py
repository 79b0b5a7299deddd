"""One optimizer step of one block: paths, forward, loss, backward, update. Blocks do not depend on each other."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from dna_fast.ops import feature_mse
from dna_fast.supernet import StudentBlock, Supernet, sample_paths


class Learner:
    """Trains one block of a supernet.

    Args:
        supernet: that the block belongs to.
        index: of the block.
        optimizer: of the block's parameters.
        seed: draws the paths.
        amp: dtype of autocast; None computes in the weights' dtype.
    """

    def __init__(
        self,
        supernet: Supernet,
        index: int,
        optimizer: torch.optim.Optimizer,
        seed: int,
        amp: torch.dtype | None = None,
    ) -> None:
        self.block, self.space, self.index = supernet.block(index), supernet.space, index
        self.optimizer, self.seed, self.amp = optimizer, seed, amp
        # Summed on the device since `take_cell_losses`: reading them each step would wait for it.
        self._cell_losses = torch.zeros(len(self.block.cells), device=next(self.block.parameters()).device)
        self._steps = 0

    def step(self, x: Tensor, target: Tensor, step: int) -> Tensor:
        """One update.

        Args:
            x: [N, C, H, W], the teacher's feature before the block; of block 0, the images.
            target: [N, T, H', W'], the teacher's feature behind it.
            step: draws the paths, together with the seed and the block's number.

        Returns:
            The mean loss of the cells before the update, a scalar on the device.
        """
        loss = self.backward(x, target, step)
        self.optimizer.step()
        return loss

    def backward(self, x: Tensor, target: Tensor, step: int) -> Tensor:
        """The first half of `step`: gradients of the operators drawn, None of all others; arguments and result are the same.

        Replicas average their gradients before the optimizer's step.
        """
        return self.backward_along(x, target, sample_paths(self.space, seed=self.seed, step=step, block=self.index))

    def backward_along(self, x: Tensor, target: Tensor, paths: Sequence[tuple[int, ...]]) -> Tensor:
        """`backward` along given paths, one per cell."""
        # Gradients are dropped, not zeroed: Adam leaves a parameter without gradient entirely alone.
        self.optimizer.zero_grad(set_to_none=True)
        # The cells of block 0 share a stem that follows their mean; elsewhere cells share nothing, so a sum trains each alone.
        share = 1 / len(paths) if self.index == 0 else 1.0
        with self._autocast(x):
            root = self.block.stem(x)
        leaf = root.detach().requires_grad_(root.requires_grad)
        # A cell's backward pass follows its forward pass, so that the features of one cell are kept at a time.
        cell_losses = torch.stack([self._backward_cell(c, leaf, path, target, share) for c, path in enumerate(paths)])
        if root.requires_grad:
            root.backward(leaf.grad)
        self._cell_losses += cell_losses
        self._steps += 1
        return cell_losses.mean()

    def _backward_cell(self, cell: int, x: Tensor, path: tuple[int, ...], target: Tensor, share: float) -> Tensor:
        with self._autocast(x):
            loss = feature_mse(self.block.cell(cell)(x, path), target)
        loss.backward(torch.full_like(loss, share))  # type: ignore[no-untyped-call]
        return loss.detach()

    def _autocast(self, x: Tensor) -> torch.autocast:
        return torch.autocast(x.device.type, self.amp, enabled=self.amp is not None)

    def take_cell_losses(self) -> Tensor:
        """Mean loss of every cell [cells] over the steps since the last call, on the device; nan if there were none."""
        means = self._cell_losses / self._steps if self._steps else torch.full_like(self._cell_losses, torch.nan)
        self._cell_losses, self._steps = torch.zeros_like(self._cell_losses), 0
        return means


def adam(block: StudentBlock, lr: float, weight_decay: float) -> torch.optim.Adam:
    """Adam with coupled L2, as released; none on biases and batch norm (every parameter of fewer than two dimensions)."""
    decayed = [p for p in block.parameters() if p.dim() > 1]
    others = [p for p in block.parameters() if p.dim() <= 1]
    groups = [{"params": decayed, "weight_decay": weight_decay}, {"params": others, "weight_decay": 0.0}]
    return torch.optim.Adam(groups, lr=lr, fused=True)
