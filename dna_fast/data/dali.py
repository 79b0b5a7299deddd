"""The loader on NVIDIA DALI: decoding of crop windows on the CPU or the GPU, no state between batches.

Every random number is drawn in numpy from (seed, epoch, image) and reaches DALI as an input, so its pipeline has
nothing to remember: an epoch can be entered at any batch, and a pipeline can be thrown away at any time.

On the CPU, DALI reads and decodes the windows and torch resizes them: ATen's uint8 resampling is vectorised and, like
PIL's, exact, and takes 0.15 ms for an average crop to 224 px where DALI's CPU resampling takes 1.6 ms (one core, AVX-512).
On a GPU, DALI resizes too, on the device.
"""

from __future__ import annotations

import logging
import os
import re
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from dna_fast.data.casualties import Casualties
from dna_fast.data.errors import DataError
from dna_fast.data.index import ImageIndex
from dna_fast.data.keyed import Purpose, uniform
from dna_fast.data.loader import Batch
from dna_fast.data.order import BatchOrder
from dna_fast.data.pages import Pages
from dna_fast.data.pixels import Draws, draw, finish
from dna_fast.data.probe import find_faults, last_line
from dna_fast.data.transforms import EvalTransform, TrainTransform, Transform
from dna_fast.data.waiting import Waiting
from dna_fast.data.windows import UNIFORMS_PER_WINDOW, Geometry, centre_windows, random_windows
from dna_fast.data.workers import single_core_pool

if TYPE_CHECKING:
    from nvidia.dali import Pipeline

LOG = logging.getLogger(__name__)

# Images that one worker finishes at once: enough to amortise an operator's call, few enough to stay in its cache. Fixed,
# because a library may round differently for another number of images, and batches must not depend on `threads`.
_DTYPES = (torch.float32, torch.bfloat16)
_CHUNK = 8

# Batches that are resized and augmented while the model works on an earlier one; DALI decodes `prefetch` more behind them.
_FINISHED_AHEAD = 1


@dataclass(frozen=True)
class _Job:
    """One batch on its way through DALI."""

    number: int  # of the batch in its epoch
    indices: NDArray[np.int64]  # [N]
    geometry: Geometry
    draws: Draws | None


class _Feed:
    """What DALI polls for inputs: hands out the jobs of an epoch and keeps those whose output is still to come."""

    def __init__(self, index: ImageIndex, resizes: bool) -> None:
        self._index = index
        self.resizes = resizes  # whether the pipeline also wants to know about resizing
        self.jobs: Iterator[_Job] = iter(())
        self.pending: deque[_Job] = deque()

    def __call__(self) -> list[Any]:
        job = next(self.jobs)  # its StopIteration tells DALI that the epoch is over
        self.pending.append(job)
        paths = [np.frombuffer(os.fsencode(self._index.path(k)), np.uint8) for k in job.indices]
        geometry = job.geometry
        inputs = [paths, geometry.anchor, geometry.shape]
        if not self.resizes:
            return inputs
        return [*inputs, geometry.resized.astype(np.float32), geometry.corner]  # fn.resize takes sizes as floats only


@dataclass
class _Stream:
    """A pipeline and the feed it polls; serves one epoch at a time."""

    pipeline: Pipeline
    feed: _Feed


class DaliLoader:
    """Batches of an image index; see `loader.Loader` for what an epoch is.

    Deterministic: the same arguments give bit-identical batches on the same device, whatever `threads` and `prefetch`;
    CPU and GPU decoders may differ by a few grey levels. Several epochs may be iterated at once. An iterator that is
    left early, or closed, frees its pipeline at once.

    Args:
        index: the images.
        transform: TrainTransform or EvalTransform; decides the pixels.
        batch_size: images per batch of this rank.
        seed: non-negative; order and augmentation follow from it.
        training: shuffle every epoch and drop the last partial batch; otherwise the order of the index, all images.
        device: "cpu", "cuda" or "cuda:<n>": where images are decoded and delivered.
        threads: CPU threads that decode; with device "cpu", as many more resize and augment.
        prefetch: batches decoded ahead.
        rank, world_size: this process's share. Training ranks cut each global batch of batch_size * world_size images
            consecutively; evaluation ranks share out whole batches, every image once.
        on_bad: what to do about an image that cannot be decoded. "error" stops and names the file. "skip" logs and counts
            it and goes on: in training another image takes its place (by seed, epoch and image), in evaluation it is
            left out, and a batch with no image left is not given. Above one image in a hundred (and ten), it stops.
        dtype: of the images, float32 or bfloat16: what they are rounded to when all else is done.

    Attributes:
        damaged: position in the index -> what is wrong, of the images that were met so far.
        waiting: the share of the time that the model waited for images.

    Raises:
        ValueError: an argument out of range, an unknown device, an empty index.
        ImportError: DALI is not installed.
        RuntimeError: a GPU was asked for and torch sees none.
    """

    def __init__(
        self,
        index: ImageIndex,
        transform: Transform,
        *,
        batch_size: int,
        seed: int,
        training: bool,
        device: str = "cpu",
        threads: int = 2,
        prefetch: int = 2,
        rank: int = 0,
        world_size: int = 1,
        on_bad: str = "error",
        dtype: torch.dtype = torch.float32,
    ) -> None:
        if len(index) == 0:
            raise ValueError("loader: the image index is empty; scan a folder with images or choose a larger subset")
        for name, value in (("threads", threads), ("prefetch", prefetch)):
            if value < 1:
                raise ValueError(f"loader: {name} must be at least 1, got {value}")
        if dtype not in _DTYPES:
            raise ValueError(f"loader: dtype must be one of {', '.join(map(str, _DTYPES))}, got {dtype}")
        _require_dali()
        self.device = _parse_device(device)
        self.index = index
        self.transform = transform
        self.dtype = dtype
        self.batch_size = batch_size
        self.num_images = len(index)
        self._order = BatchOrder(len(index), batch_size, seed, training, rank, world_size)
        self._casualties = Casualties(index, seed, on_bad=on_bad, training=training)
        self.damaged = self._casualties.faults
        self.waiting = Waiting(_advice(self.device, threads))
        self._threads = threads
        self._prefetch = prefetch
        self._idle: _Stream | None = None
        self._pages = Pages()
        self._workers = single_core_pool(threads) if self.device.type == "cpu" else None

    def __len__(self) -> int:
        """Batches per epoch on this rank."""
        return len(self._order)

    def epoch(self, epoch: int, start_batch: int = 0) -> Iterator[Batch]:
        """The batches of one epoch, from `start_batch` on; a pure function of (seed, epoch, start_batch).

        Raises:
            ValueError: a negative epoch, or a start outside 0..len(self).
            DataError: while iterating, an image that cannot be decoded; the message names the file.
        """
        if epoch < 0:
            raise ValueError(f"loader: epoch must not be negative, got {epoch}")
        if not 0 <= start_batch <= len(self):
            raise ValueError(f"loader: start_batch must be in 0..{len(self)}, got {start_batch}")
        batches = self._iterate(epoch, start_batch)
        return self.waiting.watch(batches, lambda batch: len(batch.images)) if self._order.training else batches

    def _iterate(self, epoch: int, start_batch: int) -> Iterator[Batch]:
        stream, repeated = self._start(epoch, start_batch), -1
        begun: deque[Callable[[], Batch]] = deque()  # batches that are being finished while the model is busy
        while True:
            try:
                outputs = self._run(stream)
            except DataError:
                raise  # from the feed: there is nothing left to read
            except RuntimeError as error:
                yield from _ended(begun)  # all that came before the failure
                if not stream.feed.pending:
                    raise  # not about any image
                # A pipeline does not survive an error. All before this batch was delivered, so another one goes on from it.
                first = stream.feed.pending[0].number
                self._learn(error, stream.feed.pending, is_repeated=first == repeated)
                stream, repeated = self._start(epoch, first), first
                continue
            if outputs is None:
                break
            begun.append(self._begin(stream.feed.pending.popleft(), outputs))
            if len(begun) > _FINISHED_AHEAD:
                yield begun.popleft()()
        yield from _ended(begun)
        # A stream goes back only after a whole epoch. Left early or failed, it still holds decoded batches of this
        # epoch: dropping it costs the 10 ms of building another.
        stream.pipeline.reset()
        self._idle = stream

    def _start(self, epoch: int, start_batch: int) -> _Stream:
        """A stream, idle or new, about to deliver an epoch from `start_batch` on."""
        stream, self._idle = self._idle or self._build(), None
        stream.feed.pending.clear()
        stream.feed.jobs = (
            self._job(number, indices, epoch)
            for number, whole in enumerate(self._order.batches(epoch, start_batch), start_batch)
            if len(indices := self._casualties.without(whole, epoch))
        )
        return stream

    def _run(self, stream: _Stream) -> Any:
        """DALI's output for the next job, or None after the last."""
        try:
            if self.device.type == "cuda":
                # Binding the output to torch's stream orders its release behind the kernels that read it.
                return stream.pipeline.run(torch.cuda.current_stream(self.device))[0]
            return stream.pipeline.run()[0]
        except StopIteration:
            return None

    def _learn(self, error: RuntimeError, pending: deque[_Job], *, is_repeated: bool) -> None:
        """Finds out which images failed; raises where that is no reason to go on."""
        positions = [int(k) for job in pending for k in job.indices]
        faults = find_faults(self.index, positions, self._decode_one)
        if faults:
            try:
                self._casualties.add(faults)
            except DataError as named:
                raise named from error
            return
        what = (
            f"DALI failed on a batch of {len(pending[0].indices)} images ({self.index.path(positions[0])} to "
            f"{self.index.path(positions[-1])} were under way), yet each decodes alone: {last_line(error)}"
        )
        if is_repeated:
            raise DataError(f"loader: {what}; try a smaller batch_size or fewer threads") from error
        LOG.warning("%s; the batch is read once more", what)  # a disk or network that failed for a moment

    def _job(self, number: int, indices: NDArray[np.int64], epoch: int) -> _Job:
        widths, heights = self.index.widths[indices], self.index.heights[indices]
        transform, seed = self.transform, self._order.seed
        if not isinstance(transform, TrainTransform):
            return _Job(number, indices, centre_windows(widths, heights, transform), None)
        numbers = uniform(seed, epoch, indices, Purpose.WINDOW, UNIFORMS_PER_WINDOW)
        windows = random_windows(widths, heights, numbers, transform.scale, transform.ratio, transform.size)
        return _Job(number, indices, windows, draw(transform, seed, epoch, indices))

    def _begin(self, job: _Job, outputs: Any) -> Callable[[], Batch]:
        """Sets about finishing a batch; what is returned waits for it."""
        indices = torch.from_numpy(job.indices.copy()).to(self.device)
        labels = torch.from_numpy(self.index.labels[job.indices]).to(self.device)
        if self._workers is None:
            images = finish(torch.from_dlpack(outputs.as_tensor()), self.transform, job.draws)
            images = images.to(self.dtype)
            return lambda: Batch(images, labels, indices)
        wait = self._begin_on_cpu(job, outputs)
        return lambda: Batch(wait(), labels, indices)

    def _begin_on_cpu(self, job: _Job, outputs: Any) -> Callable[[], Tensor]:
        size = self.transform.size
        images = self._pages.empty((len(outputs), size, size, 3), self.dtype).permute(0, 3, 1, 2)
        windows = [torch.from_dlpack(outputs[k]) for k in range(len(outputs))]

        def finish_chunk(start: int) -> None:
            chunk = slice(start, start + _CHUNK)
            pixels = _resize(windows[chunk], job.geometry, start, self.transform)
            images[chunk] = finish(pixels, self.transform, job.draws and job.draws.part(chunk))

        assert self._workers is not None
        chunks = self._workers.map(finish_chunk, range(0, len(outputs), _CHUNK))

        def wait() -> Tensor:
            for _ in chunks:
                pass  # raises what a worker raised
            return images

        return wait

    def _build(self) -> _Stream:
        on_gpu = self.device.type == "cuda"
        feed = _Feed(self.index, resizes=on_gpu)
        pipeline = _pipeline(
            feed,
            self.transform,
            on_gpu=on_gpu,
            batch_size=self.batch_size,
            num_threads=self._threads,
            device_id=self.device.index,
            prefetch_queue_depth=self._prefetch,
        )
        return _Stream(pipeline, feed)

    def _decode_one(self, position: int) -> None:
        """Decodes a whole image by itself; raises DALI's own error."""
        one, stream = np.array([position]), self._build()
        whole = centre_windows(self.index.widths[one], self.index.heights[one], EvalTransform(self.transform.size))
        stream.feed.jobs = iter([_Job(0, one, whole, None)])
        stream.pipeline.run()


def _pipeline(feed: _Feed, transform: Transform, *, on_gpu: bool, **options: Any) -> Pipeline:
    """Builds read -> decode window -> (resize -> cut); outputs uint8 [rows, columns, 3] per image.

    Args:
        feed: polled for inputs; where it `resizes`, the output is a dense batch of final squares.
        on_gpu: decode with nvJPEG.
        options: nvidia.dali.Pipeline's.
    """
    from nvidia.dali import Pipeline, fn, types

    kinds = {"bicubic": types.DALIInterpType.INTERP_CUBIC, "bilinear": types.DALIInterpType.INTERP_LINEAR}
    pipeline = Pipeline(exec_dynamic=True, **options)
    with pipeline:
        inputs = fn.external_source(source=feed, num_outputs=5 if feed.resizes else 3)
        paths, anchor, shape = inputs[:3]
        pixels = fn.decoders.image_slice(
            fn.io.file.read(paths),
            anchor,
            shape,
            axis_names="HW",
            device="mixed" if on_gpu else "cpu",
            # Windows are in the coordinates of the stored image, and timm does not rotate either.
            adjust_orientation=False,
            jpeg_fancy_upsampling=True,  # else the GPU's chroma differs from the CPU's and PIL's
        )
        if feed.resizes:
            resized, corner = inputs[3:]
            pixels = fn.resize(pixels, size=resized, interp_type=kinds[transform.interpolation], antialias=True)
            pixels = fn.slice(pixels, start=corner, shape=[transform.size, transform.size], axis_names="HW")
        pipeline.set_outputs(pixels)
    pipeline.build()
    return pipeline


def _resize(windows: list[Tensor], geometry: Geometry, first: int, transform: Transform) -> Tensor:
    """Resizes decoded windows and cuts their squares.

    Args:
        windows: uint8 [rows, columns, 3] each.
        geometry: of the batch; the windows are its images `first`, `first` + 1, ...

    Returns:
        [len(windows), size, size, 3] uint8, contiguous.
    """
    size = transform.size
    squares = torch.empty((len(windows), size, size, 3), dtype=torch.uint8)
    for position, window in enumerate(windows):
        image = window[None].permute(0, 3, 1, 2)  # in this order it counts as channels_last, which ATen resizes faster
        rows, columns = (int(side) for side in geometry.resized[first + position])
        resized = F.interpolate(image, (rows, columns), mode=transform.interpolation, antialias=True)
        top, left = geometry.corner[first + position]
        squares[position] = resized[0, :, top : top + size, left : left + size].permute(1, 2, 0)
    return squares


def _parse_device(device: str) -> torch.device:
    if not isinstance(device, str) or not re.fullmatch(r"cpu|cuda(:\d+)?", device):
        raise ValueError(f'loader: device must be "cpu", "cuda" or "cuda:<n>", got {device!r}')
    parsed = torch.device(device)
    if parsed.type == "cpu":
        return parsed
    if not torch.cuda.is_available():
        raise RuntimeError(f'loader: device {device!r} was asked for, but torch sees no GPU; use device="cpu"')
    number = torch.cuda.current_device() if parsed.index is None else parsed.index
    if number >= torch.cuda.device_count():
        raise ValueError(f"loader: device {device!r} does not exist; torch sees {torch.cuda.device_count()} GPU(s)")
    return torch.device("cuda", number)


def _ended(begun: deque[Callable[[], Batch]]) -> Iterator[Batch]:
    """The batches that were begun, in their order."""
    while begun:
        yield begun.popleft()()


def _advice(device: torch.device, threads: int) -> str:
    """What helps a loader that is too slow."""
    more = f"give the loader more threads (data.threads, now {threads})"
    return more if device.type == "cuda" else f"{more}, or decode on the GPU (data.device: cuda)"


def _require_dali() -> None:
    try:
        import nvidia.dali  # noqa: F401  (only whether it is there)
    except ImportError as error:
        raise ImportError(
            f"loader: reading images needs NVIDIA DALI ({error}); pip install nvidia-dali-cuda130 "
            "(it also serves machines without a GPU)"
        ) from error
