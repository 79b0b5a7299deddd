"""What happens to the pixels of a batch once its crops are decoded: the torch half of a transform.

Everything here is a plain function of tensors and of numbers drawn beforehand, the same on CPU and GPU.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from dna_fast.data.keyed import Purpose, keys, uniform
from dna_fast.data.randaugment import NUMBERS_PER_LAYER, draw_policy, rand_augment
from dna_fast.data.transforms import RGB, EvalTransform, TrainTransform, Transform

_LUMA = (0.299, 0.587, 0.114)  # ITU-R 601, the grey of PIL and torchvision
_ERASE_AREA = (0.02, 1 / 3)
_ERASE_LOG_ASPECT = math.log(0.3), math.log(3.3)
_ERASE_ATTEMPTS = 10
# One 3x3 matrix per image is too small for a GEMM: four pixels side by side as one 12x12 block-diagonal product
# takes 0.18 ms per 224 px image on one core instead of 0.44, for four times the arithmetic.
_PIXELS_PER_PRODUCT = 4


@dataclass(frozen=True)
class Draws:
    """The random numbers of one batch, each row belonging to one image."""

    flip: NDArray[np.bool_]  # [N]
    color: NDArray[np.float64]  # [N, 3] factors of brightness, contrast, saturation
    affine: NDArray[np.float64]  # [N, 3] angle in radians, shift in x and y as a share of the side
    erase: NDArray[np.int64]  # [N, 4] top, left, rows, columns; no rows where nothing is erased
    noise_keys: NDArray[np.uint64]  # [N]
    operators: NDArray[np.int64]  # [N, layers] of RandAugment, and their arguments
    arguments: NDArray[np.float64]

    def part(self, images: slice) -> Draws:
        """The draws of some of the images."""
        return Draws(*(getattr(self, field.name)[images] for field in fields(self)))


def draw(transform: TrainTransform, seed: int, epoch: int, indices: NDArray[np.int64]) -> Draws:
    """Draws what a training batch needs, except its crop windows."""

    def numbers(purpose: Purpose, count: int) -> NDArray[np.float64]:
        return uniform(seed, epoch, indices, purpose, count)

    jitter = transform.color_jitter
    low, high = max(0.0, 1.0 - jitter), 1.0 + jitter
    reach = np.array([math.radians(transform.rotate_deg), transform.translate, transform.translate])
    layers = transform.rand_augment
    policy = numbers(Purpose.POLICY, layers * NUMBERS_PER_LAYER).reshape(len(indices), layers, NUMBERS_PER_LAYER)
    operators, arguments = draw_policy(policy, transform.rand_magnitude)
    return Draws(
        flip=numbers(Purpose.FLIP, 1)[:, 0] < transform.flip,
        color=low + (high - low) * numbers(Purpose.COLOR, 3),
        affine=(2.0 * numbers(Purpose.AFFINE, 3) - 1.0) * reach,
        erase=_erase_windows(numbers(Purpose.ERASE, 2 * _ERASE_ATTEMPTS + 3), transform),
        noise_keys=keys(seed, epoch, indices, Purpose.NOISE),
        operators=operators,
        arguments=arguments,
    )


def _erase_windows(draws: NDArray[np.float64], transform: TrainTransform) -> NDArray[np.int64]:
    """[N, 4] top, left, rows, columns of the first of ten rectangles that fits, as timm's RandomErasing."""
    side = transform.size
    (low, high), (log_low, log_high) = _ERASE_AREA, _ERASE_LOG_ASPECT
    area = side * side * (low + (high - low) * draws[:, :_ERASE_ATTEMPTS])
    aspect = np.exp(log_low + (log_high - log_low) * draws[:, _ERASE_ATTEMPTS : 2 * _ERASE_ATTEMPTS])
    rows = np.rint(np.sqrt(area * aspect)).astype(np.int64)
    columns = np.rint(np.sqrt(area / aspect)).astype(np.int64)
    fits = (rows < side) & (columns < side)
    first, every = fits.argmax(axis=1), np.arange(len(draws))
    rows, columns = rows[every, first], columns[every, first]
    chosen, top_draw, left_draw = draws[:, 2 * _ERASE_ATTEMPTS :].T
    erased = fits.any(axis=1) & (chosen < transform.erase_prob)
    top = np.floor(top_draw * (side - rows + 1)).astype(np.int64)
    left = np.floor(left_draw * (side - columns + 1)).astype(np.int64)
    return np.where(erased[:, None], np.stack([top, left, rows, columns], axis=1), 0)


def finish(pixels: Tensor, transform: Transform, draws: Draws | None) -> Tensor:
    """Turns decoded crops into a network's input.

    Args:
        pixels: [N, H, W, 3] uint8, contiguous; overwritten.
        draws: for a TrainTransform; None for an EvalTransform.

    Returns:
        [N, 3, H, W] float32, channels_last.
    """
    if isinstance(transform, EvalTransform) or draws is None:
        return normalise(pixels.float(), transform.mean, transform.std).permute(0, 3, 1, 2)
    if draws.flip.any():
        flip = torch.from_numpy(draws.flip).to(pixels.device)
        pixels[flip] = pixels[flip].flip(2)
    if transform.rand_augment:
        pixels = rand_augment(pixels, draws.operators, draws.arguments, transform.mean)
    values = pixels.float()
    if transform.color_jitter > 0.0:
        values = jitter_color(values, torch.from_numpy(draws.color).to(values))
    images = normalise(values, transform.mean, transform.std).permute(0, 3, 1, 2)
    if transform.warps:
        images = warp(images, torch.from_numpy(draws.affine).to(images))
    return erase(images, draws)


def normalise(values: Tensor, mean: RGB, std: RGB) -> Tensor:
    """(x / 255 - mean) / std per channel, in place. values: [N, H, W, 3] float32 in 0..255, contiguous."""
    width = values.shape[2]
    rows = values.view(values.shape[0], -1, 3 * width)
    # Constants repeated over a row: an inner loop over 3 channels does not vectorise, one over 3 * W numbers does.
    offset = torch.tensor(mean, dtype=values.dtype, device=values.device).mul_(255.0).repeat(width)
    factor = torch.tensor(std, dtype=values.dtype, device=values.device).mul_(255.0).reciprocal_().repeat(width)
    rows.sub_(offset).mul_(factor)
    return values


def jitter_color(values: Tensor, factors: Tensor) -> Tensor:
    """Brightness b, then contrast c about the mean grey g, then saturation s, clamped to 0..255 at the end.

    All three are linear in a pixel, so together they are x -> c b (s x + (1 - s) grey(x)) + (1 - c) b g: one 3x3
    matrix and one offset per image. (The offset is grey, so saturation leaves it alone.)

    Args:
        values: [N, H, W, 3] float32, contiguous.
        factors: [N, 3] float32: b, c, s.
    """
    images, height, width, _ = values.shape
    brightness, contrast, saturation = factors[:, :, None, None].unbind(1)  # each [N, 1, 1]
    luma = torch.tensor(_LUMA, device=values.device)
    grey = values.view(images, height * width, 3).mean(1) @ luma  # [N]
    mixing = saturation * torch.eye(3, device=values.device) + (1.0 - saturation) * luma[:, None]  # x @ mixing
    matrix = contrast * brightness * mixing  # [N, 3, 3]
    offset = (1.0 - contrast) * brightness * grey[:, None, None]  # [N, 1, 1]
    group = math.gcd(height * width, _PIXELS_PER_PRODUCT)
    blocks = torch.einsum("ij,nkl->nikjl", torch.eye(group, device=values.device), matrix)
    blocks = blocks.reshape(images, 3 * group, 3 * group)
    out = torch.baddbmm(offset, values.view(images, -1, 3 * group), blocks)
    return out.clamp_(0.0, 255.0).view_as(values)


def warp(images: Tensor, affine: Tensor) -> Tensor:
    """Rotates about the centre and shifts, bilinear, repeating the border.

    Args:
        images: [N, 3, H, H] float32.
        affine: [N, 3] float32: angle in radians, shift in x and y as a share of the side.
    """
    angle, shift_x, shift_y = affine.unbind(1)
    cos, sin = angle.cos(), angle.sin()
    # grid_sample's coordinates run from -1 to 1, so a share of the side counts twice.
    rows = [torch.stack([cos, -sin, 2.0 * shift_x], 1), torch.stack([sin, cos, 2.0 * shift_y], 1)]
    grid = F.affine_grid(torch.stack(rows, 1), list(images.shape), align_corners=False)
    warped = F.grid_sample(images, grid, mode="bilinear", padding_mode="border", align_corners=False)
    return warped.contiguous(memory_format=torch.channels_last)


def erase(images: Tensor, draws: Draws) -> Tensor:
    """Fills each image's erase window with standard normal noise, in place. images: [N, 3, H, W] float32."""
    for position in np.flatnonzero(draws.erase[:, 2]):
        top, left, rows, columns = draws.erase[position]
        # Philox is counter-based too: the key alone decides the noise, and one number takes about 8 ns.
        noise = np.random.Generator(np.random.Philox(key=int(draws.noise_keys[position])))
        window = torch.from_numpy(noise.standard_normal((rows, columns, 3), np.float32)).to(images.device)
        images[position, :, top : top + rows, left : left + columns] = window.permute(2, 0, 1)
    return images
