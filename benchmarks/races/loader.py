"""Loaders over one folder of photographs: images per second, and how far evaluation images are from timm's.

Request: folder (of class folders), copies (of every image, as links, so that an epoch is long enough), size, batch_size, threads,
training, ways, pace (Pace's fields). One call is one epoch; the files are in the page cache.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterable, Iterator
from functools import cache, partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.baselines_loader import Task, plain_dali_loader, torchvision_loader
from benchmarks.race import Contestant, Pace, race
from dna_fast.data import DaliLoader, EvalTransform, ImageIndex, TrainTransform
from dna_fast.data.listing import SUFFIXES
from dna_fast.data.transforms import IMAGENET_STD

SEED = 0
# Worst image's mean difference to timm: more is another geometry or filter, not another decoder. An opponent may have one.
LARGEST_DIFFERENCE = {"ours": 2.0}
Batches = Callable[[], Iterator[Tensor]]


def main(request: dict[str, Any]) -> dict[str, Any]:
    """Per contestant the seconds of an epoch; images in an epoch."""
    torch.set_num_threads(1)  # each loader brings its own threads or processes
    with tempfile.TemporaryDirectory() as links:
        images = _linked(Path(request["folder"]), Path(links), request["copies"])
        keys = ("size", "batch_size", "threads", "training")
        task = Task(links, **{key: request[key] for key in keys})
        # Torchvision's come first: their workers are forked, which must not happen once others have started threads.
        order = sorted(request["ways"], key=list(WAYS).index)
        contestants = []
        for way in order:
            batches = cache(partial(WAYS[way], task))
            # Training may drop a last partial batch.
            least = images // task.batch_size * task.batch_size if task.training else images
            contestants.append(
                Contestant({"way": way}, partial(_epoch, batches, least), partial(_check, way, batches, task))
            )
        entries = race(contestants, Pace(**request["pace"]))
    return {"entries": entries, "facts": {"images": images}}


def _linked(folder: Path, links: Path, copies: int) -> int:
    """Links every image `copies` times; returns how many there are."""
    images = 0
    for path in sorted(p for p in folder.resolve().glob("*/*") if p.suffix.lower() in SUFFIXES):
        (links / path.parent.name).mkdir(exist_ok=True)
        for copy in range(copies):
            os.symlink(path, links / path.parent.name / f"{copy}_{path.name}")
            images += 1
    return images


def _ours(task: Task) -> Batches:
    transform = (
        TrainTransform(task.size, color_jitter=0.0, erase_prob=0.0)
        if task.training
        else EvalTransform(task.size, task.crop_pct)
    )
    index = ImageIndex.scan(task.folder)
    loader = DaliLoader(
        index, transform, batch_size=task.batch_size, seed=SEED, training=task.training, threads=task.threads
    )
    epoch = iter(range(10**9))
    return lambda: (batch.images for batch in loader.epoch(next(epoch)))


def _of_iterable(build: Callable[[Task], Iterable[Any]], picked: Callable[[Any], Tensor], task: Task) -> Batches:
    loader = build(task)
    return lambda: (picked(batch) for batch in loader)


WAYS: dict[str, Callable[[Task], Batches]] = {
    "torchvision-pil": partial(_of_iterable, partial(torchvision_loader, tensors=False), lambda batch: batch[0]),
    "torchvision-tensor": partial(_of_iterable, partial(torchvision_loader, tensors=True), lambda batch: batch[0]),
    "dali-plain": partial(_of_iterable, plain_dali_loader, lambda batch: batch[0]["data"]),
    "ours": _ours,
}


def _epoch(batches: Callable[[], Batches], least: int) -> int:
    counted = sum(len(images) for images in batches()())
    assert counted >= least, f"expected {least} images or more in an epoch, got {counted}"
    return counted


def _check(way: str, batches: Callable[[], Batches], task: Task, counted: int) -> dict[str, Any]:
    """The batches are what was asked for; evaluation images are timm's. Epochs are read to their end: some loaders go on where
    one was left."""
    for images in batches()():
        assert images.shape[1:] == (3, task.size, task.size), f"got images of shape {tuple(images.shape)}"
        assert images.dtype == torch.float32, f"got {images.dtype}"
    if task.training:
        return {}
    difference = max(_differences(batches, task))
    limit = LARGEST_DIFFERENCE.get(way)
    assert limit is None or difference < limit, f"an image differs from timm's by {difference:.2f}/255, limit {limit}"
    return {"difference": difference}


def _differences(batches: Callable[[], Batches], task: Task) -> Iterator[float]:
    """Mean absolute difference of every distinct image to timm's evaluation transform, in grey levels of 255."""
    from PIL import Image
    from timm.data import create_transform

    reference = create_transform(
        (3, task.size, task.size), is_training=False, interpolation="bicubic", crop_pct=task.crop_pct
    )
    index, seen = ImageIndex.scan(task.folder), set()
    std = torch.tensor(IMAGENET_STD).view(3, 1, 1)
    position = 0
    for images in batches()():
        for image in images:
            path = os.path.realpath(index.path(position))
            position += 1
            if path not in seen:
                seen.add(path)
                with Image.open(path) as original:
                    expected = reference(original.convert("RGB"))
                yield float((image - expected).abs().mul(std).mean() * 255)
