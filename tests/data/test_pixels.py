"""The torch half of a transform, each step against a plain statement of what it should do."""

from dataclasses import replace

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="needs torch")

from dna_fast.data.pixels import draw, erase, finish, jitter_color, normalise, warp  # noqa: E402
from dna_fast.data.transforms import EvalTransform, TrainTransform  # noqa: E402

PLAIN = TrainTransform(16, flip=0.0, color_jitter=0.0, erase_prob=0.0)


def pixels(count: int = 4, side: int = 16, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (count, side, side, 3), dtype=torch.uint8, generator=generator)


def drawn(transform: TrainTransform, count: int = 4):  # type: ignore[no-untyped-def]
    return draw(transform, seed=0, epoch=0, indices=np.arange(count))


def test_evaluation_only_normalises() -> None:
    source = pixels()
    images = finish(source.clone(), EvalTransform(16, mean=(0.1, 0.2, 0.3), std=(0.5, 0.6, 0.7)), None)
    expected = (source.permute(0, 3, 1, 2) / 255 - torch.tensor([0.1, 0.2, 0.3]).view(3, 1, 1)) / torch.tensor(
        [0.5, 0.6, 0.7]
    ).view(3, 1, 1)
    assert images.dtype == torch.float32
    assert images.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(images, expected)


def test_whole_numbers_as_mean_and_std() -> None:
    values = normalise(pixels(1).float(), (0, 0, 0), (1, 1, 1))
    assert torch.equal((values * 255).round(), pixels(1).float())


def test_flip_mirrors_the_drawn_images_only() -> None:
    transform = replace(PLAIN, flip=0.5)
    draws, source = drawn(transform, 32), pixels(32)
    images, plain = finish(source.clone(), transform, draws), finish(source.clone(), PLAIN, drawn(PLAIN, 32))
    assert 0 < draws.flip.sum() < 32
    for k in range(32):
        assert torch.equal(images[k], plain[k].flip(2) if draws.flip[k] else plain[k])


@pytest.mark.parametrize("side", [16, 15, 14, 1], ids=["mult-of-4", "odd", "even", "one"])
def test_color_jitter_is_brightness_then_contrast_then_saturation(side: int) -> None:
    from torchvision.transforms.v2 import functional as tv

    generator = torch.Generator().manual_seed(1)
    factors = 0.6 + 0.8 * torch.rand(6, 3, generator=generator)
    # Mid grey values: torchvision clamps after every step and we clamp once, so nothing may reach the ends here.
    values = 90.0 + 40.0 * torch.rand(6, side, side, 3, generator=generator)
    ours = jitter_color(values, factors)
    for image, (b, c, s), got in zip(values, factors.tolist(), ours, strict=True):
        planes = image.permute(2, 0, 1) / 255
        expected = tv.adjust_saturation(tv.adjust_contrast(tv.adjust_brightness(planes, b), c), s) * 255
        # torchvision's luma weights are rounded to four digits
        torch.testing.assert_close(got.permute(2, 0, 1), expected, atol=0.05, rtol=0)


def test_color_jitter_clamps() -> None:
    values = torch.tensor([0.0, 255.0]).view(1, 1, 2, 1).expand(1, 1, 2, 3).contiguous()
    assert jitter_color(values, torch.tensor([[1.4, 1.4, 1.4]])).flatten().tolist() == [0.0] * 3 + [255.0] * 3


def test_color_factors_stay_in_range() -> None:
    wide = drawn(replace(PLAIN, color_jitter=0.4), 5000).color
    assert 0.6 <= wide.min() < 0.61
    assert 1.39 < wide.max() <= 1.4
    assert drawn(replace(PLAIN, color_jitter=2.0), 100).color.min() >= 0.0


def test_warp_of_nothing_is_the_identity() -> None:
    images = torch.rand(2, 3, 9, 9)
    torch.testing.assert_close(warp(images, torch.zeros(2, 3)), images, atol=1e-5, rtol=0)


def test_warp_turns_a_quarter_and_shifts_whole_pixels() -> None:
    images = torch.rand(2, 3, 8, 8)
    turned = warp(images, torch.tensor([[np.pi / 2, 0, 0], [np.pi / 2, 0, 0]], dtype=torch.float32))
    torch.testing.assert_close(turned, images.rot90(1, (2, 3)), atol=1e-5, rtol=0)
    shifted = warp(images, torch.tensor([[0, 2 / 8, 0], [0, 0, -1 / 8]], dtype=torch.float32))
    torch.testing.assert_close(shifted[0, :, :, :6], images[0, :, :, 2:], atol=1e-5, rtol=0)
    torch.testing.assert_close(shifted[0, :, :, 7], images[0, :, :, 7], atol=1e-5, rtol=0)  # the border repeats
    torch.testing.assert_close(shifted[1, :, 1:], images[1, :, :7], atol=1e-5, rtol=0)


def test_erased_windows_have_the_asked_areas_aspects_and_rate() -> None:
    draws = drawn(TrainTransform(224, erase_prob=0.5), 4000)
    top, left, rows, columns = draws.erase.T
    hit = rows > 0
    assert abs(hit.mean() - 0.5) < 5 * 0.5 / np.sqrt(4000)  # five standard errors
    assert (top + rows <= 224).all()
    assert (left + columns <= 224).all()
    area, aspect = rows[hit] * columns[hit] / 224**2, rows[hit] / columns[hit]
    assert 0.019 < area.min() < 0.025
    assert 0.32 < area.max() < 0.34
    assert 0.29 < aspect.min() < 0.32
    assert 3.1 < aspect.max() < 3.4


def test_erase_fills_the_window_with_normal_noise_and_nothing_else() -> None:
    transform = TrainTransform(64, erase_prob=1.0)
    draws = drawn(transform, 40)
    images = torch.full((40, 3, 64, 64), 100.0).contiguous(memory_format=torch.channels_last)
    erase(images, draws)
    noise = []
    for k, (top, left, rows, columns) in enumerate(draws.erase):
        window = images[k, :, top : top + rows, left : left + columns]
        noise.append(window.flatten())
        assert (images[k] == 100.0).sum() == 3 * (64 * 64 - rows * columns)
    values = torch.cat(noise)
    error = 5 / np.sqrt(len(values))  # five standard errors of a mean; a variance has sqrt(2) of it
    assert abs(values.mean()) < error
    assert abs(values.var() - 1) < 1.5 * error
    assert len(values.unique()) > 0.9 * len(values)  # per pixel and channel, not one colour per window


def test_noise_belongs_to_the_image_not_to_the_batch() -> None:
    transform = TrainTransform(32, erase_prob=1.0)
    together = erase(torch.zeros(6, 3, 32, 32), drawn(transform, 6))
    alone = erase(torch.zeros(1, 3, 32, 32), draw(transform, 0, 0, np.array([4])))
    assert torch.equal(alone[0], together[4])


def test_a_part_of_the_draws_is_the_draws_of_the_part() -> None:
    transform = TrainTransform(32, rotate_deg=10.0, rand_augment=2)
    whole, part = drawn(transform, 9), draw(transform, 0, 0, np.arange(3, 7))
    for name in ("flip", "color", "affine", "erase", "noise_keys", "operators", "arguments"):
        assert np.array_equal(getattr(whole.part(slice(3, 7)), name), getattr(part, name))
