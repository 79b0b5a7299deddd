"""One step of a block: the gradients of one loss over all cells, with the features of one cell at a time."""

from collections.abc import Callable

import pytest
import torch
from toy import SPACE, toy_supernet

from dna_fast.ops import feature_mse
from dna_fast.supernet import sample_paths
from dna_fast.train_step import Learner, adam

# The stem's gradient is a sum over cells in another order, and what follows from it; a float32 sum of this size errs by less.
TOLERANCE = 1e-5


def _data(block: int) -> tuple[torch.Tensor, torch.Tensor]:
    supernet, generator = toy_supernet(), torch.Generator().manual_seed(3)
    side = SPACE.frame.resolution if block == 0 else SPACE.in_size(block)
    channels = 3 if block == 0 else supernet.teacher_channels[block - 1]
    x = torch.randn(8, channels, side, side, generator=generator)
    target = torch.randn(
        8, supernet.teacher_channels[block], SPACE.out_size(block), SPACE.out_size(block), generator=generator
    )
    return x, target


def _learner(block: int) -> Learner:
    supernet = toy_supernet().train()
    return Learner(supernet, block, adam(supernet.block(block), 0.01, 0.0), seed=0)


@pytest.mark.parametrize("block", [0, 1], ids=["with the stem", "without"])
def test_gradients_are_those_of_one_loss_over_all_cells(block: int) -> None:
    x, target = _data(block)
    ours, whole = _learner(block), _learner(block)
    ours.backward(x, target, step=5)
    losses = [feature_mse(out, target) for out in whole.block(x, sample_paths(SPACE, seed=0, step=5, block=block))]
    (sum(losses) / (len(losses) if block == 0 else 1)).backward()
    expected = dict(whole.block.named_parameters())
    for name, p in ours.block.named_parameters():
        if expected[name].grad is None:
            assert p.grad is None, name
        else:
            torch.testing.assert_close(p.grad, expected[name].grad, rtol=TOLERANCE, atol=TOLERANCE, msg=name)


def test_the_features_of_a_cell_are_gone_before_the_next_begins() -> None:
    learner, order = _learner(1), list[tuple[str, int]]()

    def note(what: str, cell: int) -> Callable[..., None]:
        return lambda *_: order.append((what, cell))

    for c, cell in enumerate(learner.block.cells):
        cell.register_forward_pre_hook(note("forward", c))
        cell.in_adapter.weight.register_post_accumulate_grad_hook(note("backward", c))
    x, target = _data(1)
    learner.backward(x, target, step=0)
    assert order == [(what, c) for c in range(len(learner.block.cells)) for what in ("forward", "backward")]
