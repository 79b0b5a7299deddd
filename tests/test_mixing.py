"""Mixup and CutMix: pixels and labels in the same shares, drawn as timm draws them."""

import math

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="needs torch")

import torch.nn.functional as F  # noqa: E402

from dna_fast.mixing import mix  # noqa: E402


def batch(count: int = 4, side: int = 20) -> tuple[torch.Tensor, torch.Tensor]:
    """Image k shows k everywhere, and its label is k."""
    labels = torch.arange(count)
    images = labels.float().view(-1, 1, 1, 1).expand(count, 3, side, side)
    return images.contiguous(memory_format=torch.channels_last), labels


def generator(seed: int) -> np.random.Generator:
    return np.random.Generator(np.random.Philox(seed))


@pytest.mark.parametrize(("mixup", "cutmix"), [(0.4, 0.0), (0.0, 1.0), (0.4, 1.0)], ids=["mixup", "cutmix", "both"])
def test_pixels_and_labels_have_the_same_shares(mixup: float, cutmix: float) -> None:
    images, labels = batch()
    kinds = set()
    for seed in range(40):
        mixed = mix(images, labels, mixup=mixup, cutmix=cutmix, rng=generator(seed))
        assert mixed.labels.tolist() == [0, 1, 2, 3]
        assert mixed.partners.tolist() == [1, 0, 3, 2]
        expected = mixed.share * labels + (1 - mixed.share) * mixed.partners
        torch.testing.assert_close(mixed.images.mean((1, 2, 3)), expected.float(), atol=1e-5, rtol=0)
        assert mixed.images.is_contiguous(memory_format=torch.channels_last)
        kinds.add("cut" if set(mixed.images[0].unique().tolist()) <= {0.0, 1.0} else "blended")
    assert ("blended" in kinds, "cut" in kinds) == (mixup > 0, cutmix > 0)
    assert torch.equal(images, batch()[0])


def test_shares_and_rectangles_are_distributed_as_timms() -> None:
    reference = pytest.importorskip("timm.data.mixup", reason="needs timm")
    stats = pytest.importorskip("scipy.stats", reason="needs scipy")
    images, labels, count = torch.zeros(2, 1, 30, 40), torch.arange(2), 1000
    limit = math.sqrt(-math.log(1e-6 / 2) / 2 * 2 / count)  # exceeded once in a million by samples of one distribution
    state = np.random.get_state()  # noqa: NPY002 (timm draws from the global generator)
    try:
        np.random.seed(0)  # noqa: NPY002
        for alphas in ({"mixup": 0.3, "cutmix": 0.0}, {"mixup": 0.0, "cutmix": 0.7}):
            ours = [mix(images, labels, **alphas, rng=generator(seed)).share for seed in range(count)]
            theirs = []
            mixer = reference.Mixup(mixup_alpha=alphas["mixup"], cutmix_alpha=alphas["cutmix"], num_classes=2)
            for _ in range(count):
                share, cuts = mixer._params_per_batch()
                theirs.append(reference.cutmix_bbox_and_lam((30, 40), share)[1] if cuts else share)
            assert stats.ks_2samp(ours, theirs, method="asymp").statistic < limit
    finally:
        np.random.set_state(state)  # noqa: NPY002


def test_the_loss_is_that_of_soft_labels() -> None:
    images, labels = batch()
    mixed = mix(images, labels, mixup=0.4, cutmix=0.0, rng=generator(5))
    logits = torch.randn(4, 6, generator=torch.Generator().manual_seed(0))
    soft = mixed.share * F.one_hot(labels, 6) + (1 - mixed.share) * F.one_hot(mixed.partners, 6)
    torch.testing.assert_close(
        mixed.cross_entropy(logits, 0.1), F.cross_entropy(logits, soft.float(), label_smoothing=0.1)
    )


@pytest.mark.parametrize(
    "alphas", [{"mixup": 0.4, "cutmix": 0.0}, {"mixup": 0.0, "cutmix": 1.0}], ids=["mixup", "cutmix"]
)
@pytest.mark.parametrize("parts", [1, 2, 3])
def test_parts_of_a_batch_are_mixed_as_the_whole(alphas: dict[str, float], parts: int) -> None:
    """Ranks mix what they have of a batch, and no image of another rank."""
    images, labels = batch(12)
    whole = mix(images, labels, **alphas, rng=generator(7))
    mixed = [
        mix(*part, **alphas, rng=generator(7)) for part in zip(images.chunk(parts), labels.chunk(parts), strict=True)
    ]
    assert torch.equal(torch.cat([m.images for m in mixed]), whole.images)
    assert torch.equal(torch.cat([m.partners for m in mixed]), whole.partners)


def test_the_last_of_an_odd_number_stays() -> None:
    images, labels = batch(5)
    mixed = mix(images, labels, mixup=0.4, cutmix=0.0, rng=generator(0))
    assert mixed.partners.tolist() == [1, 0, 3, 2, 4]
    assert torch.equal(mixed.images[4], images[4])


def test_nothing_is_mixed_unless_asked() -> None:
    images, labels = batch()
    mixed = mix(images, labels, mixup=0.0, cutmix=0.0, rng=generator(0))
    assert mixed.images is images
    assert mixed.share == 1.0


def test_the_same_generator_mixes_alike() -> None:
    images, labels = batch()
    first, again, other = (mix(images, labels, mixup=0.2, cutmix=1.0, rng=generator(seed)) for seed in (1, 1, 2))
    assert torch.equal(first.images, again.images)
    assert first.share == again.share != other.share
