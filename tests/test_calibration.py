"""Calibration against the definition of its statistics."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor
from toy import toy_supernet

from dna_fast import calibration
from dna_fast.calibration import Covariance, calibrate, image_statistics, pointwise_statistics, tree_sum


def _images(*shape: int, seed: int = 0) -> Tensor:
    x = torch.randn(shape, generator=torch.Generator().manual_seed(seed))
    return x.contiguous(memory_format=torch.channels_last)


def test_calibration_writes_the_statistics_of_the_whole_set() -> None:
    layer = toy_supernet().block(1).cell(0).operator(0, 0).eval()
    batches = [torch.randn(n, 6, 4, 4, generator=torch.Generator().manual_seed(n)) * 3 + 1 for n in (5, 8, 2)]
    with torch.no_grad():
        calibrate(layer.steps(), batches)
        values = torch.cat([layer.conv_pw(x) for x in batches]).double()
    torch.testing.assert_close(layer.bn1.running_mean.double(), values.mean((0, 2, 3)), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(
        layer.bn1.running_var.double(), values.var((0, 2, 3), correction=1), rtol=1e-5, atol=1e-6
    )


def test_calibration_brings_nothing_to_the_host() -> None:
    """Meta tensors stand for a GPU's: they have no values that could be brought."""
    layer = toy_supernet().block(1).cell(0).operator(0, 0).eval().to("meta")
    with torch.no_grad():
        calibrate(layer.steps(), [torch.empty(n, 6, 4, 4, device="meta") for n in (5, 3)])


@pytest.mark.parametrize("piece_bytes", [1 << 22, 1000], ids=["one_piece", "many_pieces"])
@pytest.mark.parametrize("offset", [0.0, 1000.0])
def test_covariance(offset: float, piece_bytes: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calibration, "PIECE_BYTES", piece_bytes)
    x = _images(7, 5, 4, 3) + offset
    found = Covariance.of(x)
    values = x.double().permute(1, 0, 2, 3).flatten(1).numpy()
    assert found.count == 7 * 4 * 3
    # Squares of float64 numbers near `offset` would lose 1e-16 * offset^2 of a variance of 1; deviations lose nothing.
    np.testing.assert_allclose(found.mean, values.mean(1), rtol=1e-13, atol=1e-13)
    np.testing.assert_allclose(found.scatter / (found.count - 1), np.cov(values), rtol=1e-11, atol=1e-12)


def test_pointwise_statistics_are_those_of_the_convolution() -> None:
    inputs = [_images(5, 6, 4, 4, seed=seed) for seed in range(3)]
    weight = torch.randn(11, 6, generator=torch.Generator().manual_seed(9), dtype=torch.float64)
    found = pointwise_statistics(weight, [Covariance.of(x) for x in inputs])
    for p, x in enumerate(inputs):
        values = torch.einsum("mc,nchw->mnhw", weight, x.double()).flatten(1)
        torch.testing.assert_close(found.mean[p], values.mean(1), rtol=1e-12, atol=1e-13)
        torch.testing.assert_close(found.var[p], values.var(1, correction=1), rtol=1e-12, atol=1e-13)


def test_image_statistics() -> None:
    x = _images(10, 6, 4, 3)
    wide = x.double()
    moments = torch.stack((wide.sum((2, 3)), wide.square().sum((2, 3))), 1)
    found = image_statistics(moments, 2, 12)
    for p in range(2):
        values = wide[5 * p : 5 * p + 5].transpose(0, 1).flatten(1)
        torch.testing.assert_close(found.mean[p], values.mean(1), rtol=1e-12, atol=1e-14)
        torch.testing.assert_close(found.var[p], values.var(1, correction=1), rtol=1e-12, atol=1e-14)


def test_a_constant_channel_has_no_variance_below_zero() -> None:
    x = torch.full((3, 1, 5, 1), 0.1).contiguous(memory_format=torch.channels_last)
    moments = torch.stack((x.double().sum((2, 3)), x.double().square().sum((2, 3))), 1)
    assert image_statistics(moments, 1, 5).var.item() >= 0
    assert pointwise_statistics(torch.full((1, 1), 0.3, dtype=torch.float64), [Covariance.of(x)]).var.item() >= 0


@pytest.mark.parametrize("length", [1, 2, 3, 8, 21])
def test_the_order_of_a_sum_depends_on_its_length_alone(length: int) -> None:
    x = torch.randn(13, length, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    alone = [tree_sum(prefix.clone()[None], 1)[0] for prefix in x]
    torch.testing.assert_close(torch.stack(alone), x.sum(1), rtol=1e-13, atol=1e-13)
    assert torch.equal(tree_sum(x.clone(), 1), torch.stack(alone))
    assert torch.equal(tree_sum(x.transpose(0, 1).clone(), 0), torch.stack(alone))


def test_a_single_value_is_no_statistic() -> None:
    one = torch.ones(1, 6, 1, 1)
    layer = toy_supernet().block(1).cell(0).operator(0, 0)
    for attempt in (
        lambda: calibrate(layer.steps(), [one]),
        lambda: Covariance.of(one),
        lambda: image_statistics(torch.ones(2, 2, 3, dtype=torch.float64), 2, 1),
    ):
        with torch.no_grad(), pytest.raises(ValueError, match="saw 1 value per channel; use more calibration images"):
            attempt()
