"""Loaders that people use today: torchvision on Pillow, torchvision's tensor decoder, DALI as its documentation shows it."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader
from torchvision import io
from torchvision.datasets import ImageFolder
from torchvision.transforms import v2

from dna_fast.data.transforms import IMAGENET_MEAN, IMAGENET_STD

BICUBIC = v2.InterpolationMode.BICUBIC
PREFETCHED = 4  # batches per worker; more made neither faster


@dataclass(frozen=True)
class Task:
    """What every loader delivers: float32 batches, normalised; random-resized crops and flips, or timm's evaluation."""

    folder: str
    size: int
    batch_size: int
    threads: int
    training: bool
    crop_pct: float = 0.875

    @property
    def short_side(self) -> int:
        """Of evaluation images before they are cropped."""
        return math.floor(self.size / self.crop_pct)


def torchvision_loader(task: Task, *, tensors: bool) -> Iterable[Tensor]:
    """A DataLoader over an ImageFolder, tuned: workers that stay and read ahead. `tensors`: decoded and cropped as uint8 tensors."""
    steps: list[Any] = (
        [v2.RandomResizedCrop(task.size, interpolation=BICUBIC, antialias=True), v2.RandomHorizontalFlip()]
        if task.training
        else [v2.Resize(task.short_side, interpolation=BICUBIC, antialias=True), v2.CenterCrop(task.size)]
    )
    steps = steps if tensors else [*steps, v2.PILToTensor()]
    steps += [v2.ToDtype(torch.float32, scale=True), v2.Normalize(IMAGENET_MEAN, IMAGENET_STD, inplace=True)]
    dataset = ImageFolder(task.folder, v2.Compose(steps), **({"loader": _decode} if tensors else {}))
    return DataLoader(
        dataset,
        task.batch_size,
        shuffle=task.training,
        num_workers=task.threads,
        prefetch_factor=PREFETCHED,
        persistent_workers=True,
    )


def _decode(path: str) -> Tensor:
    return io.decode_image(io.read_file(path), io.ImageReadMode.RGB)


def plain_dali_loader(task: Task) -> Iterable[Any]:
    """DALI's own reader, decoder, resize and normalisation on the CPU, as its ImageNet examples combine them."""
    from nvidia.dali import fn, pipeline_def, types
    from nvidia.dali.plugin.base_iterator import LastBatchPolicy
    from nvidia.dali.plugin.pytorch import DALIClassificationIterator

    @pipeline_def(batch_size=task.batch_size, num_threads=task.threads, device_id=None)  # type: ignore[untyped-decorator]
    def pipeline() -> Any:
        raw, labels = fn.readers.file(
            file_root=task.folder, random_shuffle=task.training, pad_last_batch=True, name="images"
        )
        if task.training:
            images = fn.decoders.image_random_crop(raw, random_area=[0.08, 1.0], random_aspect_ratio=[3 / 4, 4 / 3])
            images = fn.resize(images, size=[task.size, task.size], interp_type=types.INTERP_CUBIC)
            mirror = fn.random.coin_flip(probability=0.5)
        else:
            images = fn.resize(fn.decoders.image(raw), resize_shorter=task.short_side, interp_type=types.INTERP_CUBIC)
            mirror = 0
        images = fn.crop_mirror_normalize(
            images,
            crop=(task.size, task.size),
            mirror=mirror,
            mean=[255 * level for level in IMAGENET_MEAN],
            std=[255 * level for level in IMAGENET_STD],
        )
        return images, labels

    built: Iterable[Any] = DALIClassificationIterator(
        pipeline(), reader_name="images", last_batch_policy=LastBatchPolicy.PARTIAL, auto_reset=True
    )
    return built
