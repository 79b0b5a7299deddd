"""The released procedure, against torch's own batch norm with momentum 1 in training mode."""

from __future__ import annotations

from copy import deepcopy

import numpy as np
import pytest
import torch
from torch import nn
from toy import SPACE, ToyLoader, toy_supernet, toy_teacher

from dna_fast.rate import RateOptions, rate
from dna_fast.supernet import GroupBatchNorm2d
from dna_fast.tables import METRICS


def _with_torchs_norms(module: nn.Module) -> nn.Module:
    """A copy with nn.BatchNorm2d, momentum 1."""
    copy = deepcopy(module)
    for parent in list(copy.modules()):
        for name, norm in list(parent.named_children()):
            if isinstance(norm, GroupBatchNorm2d):
                plain = nn.BatchNorm2d(norm.num_features, eps=norm.eps, momentum=1.0)
                plain.load_state_dict(norm.state_dict())
                setattr(parent, name, plain)
    return copy


@pytest.mark.parametrize("boundary", ["adapter", "wide"])
def test_official_is_one_training_batch_with_momentum_one(boundary: str) -> None:
    loaders = ToyLoader([8, 8, 5], seed=1), ToyLoader([8, 8, 8, 3], seed=2)
    supernet = toy_supernet(boundary, random_norms=True)
    table = rate(supernet, toy_teacher(), loaders, RateOptions("official"))
    teacher = toy_teacher()
    batch, *_ = (b.images for b in loaders[0].epoch(0))  # the first alone calibrates
    rated = [b.images for b in loaders[1].epoch(0)][:3]
    for b, cell, path in [(0, 0, (2,)), (0, 1, (1, 0, 2)), (1, 0, (0, 2, 1)), (1, 1, (2, 2))]:
        block = _with_torchs_norms(toy_supernet(boundary, random_norms=True).block(b))
        ratings = []
        with torch.no_grad():
            block.train()
            block.cell(cell)(block.stem(batch if b == 0 else teacher(batch)[0]), path)
            block.eval()
            for images in rated:
                target = teacher(images)[b]
                d = block.cell(cell)(block.stem(images if b == 0 else teacher(images)[0]), path) - target
                ratings.append((d.abs().mean() / target.std()).item())
        record = table.blocks[b][SPACE.candidate_index(b, cell, path)]
        np.testing.assert_allclose(record["relative_l1"], np.mean(ratings), rtol=1e-4)
        np.testing.assert_allclose(record["relative_l1_se"], np.std(ratings, ddof=1) / np.sqrt(3), rtol=1e-3)


def test_the_table_says_that_it_is_official() -> None:
    loaders = ToyLoader([8, 8], seed=1), ToyLoader([8, 8], seed=2)
    official, trie = (rate(toy_supernet(), toy_teacher(), loaders, RateOptions(mode)) for mode in ("official", "trie"))
    assert official.metadata["mode"] == "official"
    assert "momentum 1" in official.metadata["bn_policy"]
    assert official.metadata["calibration_images"] == 8
    assert "whole calibration set" in trie.metadata["bn_policy"]
    for name in METRICS:  # half the images calibrate: near, and not the same
        np.testing.assert_allclose(official.blocks[1][name], trie.blocks[1][name], rtol=0.5)
        assert not np.allclose(official.blocks[1][name], trie.blocks[1][name], rtol=1e-4)


def test_every_path_is_calibrated_for_every_rated_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    passes = []
    forward = torch.nn.functional.batch_norm

    def spy(*args: object, **kwargs: object) -> torch.Tensor:
        passes.append(args[5])  # training
        return forward(*args, **kwargs)  # type: ignore[arg-type]

    monkeypatch.setattr(torch.nn.functional, "batch_norm", spy)
    teacher = toy_teacher()
    features = (ToyLoader([8], seed=1), ToyLoader([8] * 4, seed=2))
    rate(toy_supernet(), teacher, features, RateOptions("official"))
    # Three norms per layer; block 0 passes the stem's three, too. 3 + 27 paths of 1 and 3 layers, 27 + 9 of 3 and 2.
    norms = 3 * (1 + 1) + 27 * (1 + 3) + 27 * 3 + 9 * 2
    assert sum(1 for training in passes if training) == 3 * 4 * norms


def test_official_needs_a_whole_batch() -> None:
    with pytest.raises(
        ValueError, match="mode official calibrates with one batch of 8 images, got 5 calibration images"
    ):
        rate(toy_supernet(), toy_teacher(), (ToyLoader([5]), ToyLoader([8], seed=2)), RateOptions("official"))
