"""The DALI loader: repeatable batches, timm's evaluation geometry, and errors that name the file."""

import gc
import io
import itertools
import shutil
import threading
import weakref
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="needs torch")
pytest.importorskip("nvidia.dali", reason="needs DALI")

from data.pictures import picture  # noqa: E402
from PIL import Image  # noqa: E402

from dna_fast.data import Batch, DaliLoader, DataError, EvalTransform, ImageIndex, Loader, TrainTransform  # noqa: E402
from dna_fast.data import dali as dali_module  # noqa: E402

TRAIN = TrainTransform(32, rotate_deg=5.0, translate=0.1)
EVAL = EvalTransform(32)
ONE = (1.0, 1.0, 1.0)
ZERO = (0.0, 0.0, 0.0)


@pytest.fixture(scope="module")
def index(photos: Path) -> ImageIndex:
    return ImageIndex.scan(photos)


def loader(index: ImageIndex, transform: TrainTransform | EvalTransform = EVAL, **options: object) -> DaliLoader:
    training = isinstance(transform, TrainTransform)
    return DaliLoader(index, transform, **{"batch_size": 4, "seed": 0, "training": training, **options})  # type: ignore


def assert_same(first: Iterable[Batch], second: Iterable[Batch]) -> None:
    for a, b in itertools.zip_longest(first, second):
        assert torch.equal(a.indices, b.indices)
        assert torch.equal(a.labels, b.labels)
        assert torch.equal(a.images, b.images)


def test_batch_layout(index: ImageIndex) -> None:
    batches = list(loader(index).epoch(0))
    assert [len(batch.images) for batch in batches] == [4, 4, 4, 4, 4, 1]  # the last one with its true size
    for batch in batches:
        assert batch.images.dtype == torch.float32
        assert batch.images.shape[1:] == (3, 32, 32)
        assert batch.images.is_contiguous(memory_format=torch.channels_last)
        assert batch.labels.dtype == batch.indices.dtype == torch.int64
        assert batch.labels.tolist() == index.labels[batch.indices.numpy()].tolist()
    assert torch.cat([batch.indices for batch in batches]).tolist() == list(range(21))


@pytest.mark.parametrize("transform", [TRAIN, EVAL], ids=["train", "eval"])
def test_bfloat16_batches_are_the_float32_ones_rounded(index: ImageIndex, transform: TrainTransform) -> None:
    usual, half = (loader(index, transform, dtype=dtype) for dtype in (torch.float32, torch.bfloat16))
    for expected, batch in zip(usual.epoch(0), half.epoch(0), strict=True):
        assert batch.images.dtype == torch.bfloat16
        assert batch.images.is_contiguous(memory_format=torch.channels_last)
        assert torch.equal(batch.images, expected.images.to(torch.bfloat16))


def test_is_a_loader(index: ImageIndex) -> None:
    training = loader(index, TRAIN)
    assert isinstance(training, Loader)
    assert (len(training), training.batch_size, training.num_images) == (5, 4, 21)


def test_training_drops_the_partial_batch_and_shuffles(index: ImageIndex) -> None:
    seen = [torch.cat([b.indices for b in loader(index, TRAIN).epoch(e)]).tolist() for e in (0, 1)]
    assert all(len(set(order)) == len(order) == 20 for order in seen)
    assert seen[0] != seen[1]


def test_a_repeated_epoch_is_bit_identical_whatever_the_threads(index: ImageIndex) -> None:
    first = loader(index, TRAIN)
    list(first.epoch(0))  # a pipeline that has already served an epoch
    assert_same(first.epoch(3), loader(index, TRAIN, threads=3, prefetch=1).epoch(3))


@pytest.mark.parametrize("transform", [TRAIN, EVAL], ids=["train", "eval"])
def test_resuming_inside_an_epoch_is_bit_identical(
    index: ImageIndex, transform: TrainTransform | EvalTransform
) -> None:
    whole = list(loader(index, transform).epoch(2))
    for start in range(len(whole) + 1):
        assert_same(whole[start:], loader(index, transform).epoch(2, start))


@pytest.mark.parametrize("change", ["seed", "epoch"])
def test_seed_and_epoch_change_an_images_pixels(index: ImageIndex, change: str) -> None:
    one = index.subset([4])
    options = {"batch_size": 1}
    (base,) = loader(one, TRAIN, **options).epoch(0)
    (other,) = (
        loader(one, TRAIN, **options, seed=1).epoch(0) if change == "seed" else loader(one, TRAIN, **options).epoch(1)
    )
    assert (base.images - other.images).abs().mean() > 0.05


@pytest.mark.parametrize("world_size", [2, 3])
def test_training_ranks_make_up_the_batch_of_one(index: ImageIndex, world_size: int) -> None:
    whole = loader(index, TRAIN, batch_size=6).epoch(1)
    ranks = [
        loader(index, TRAIN, batch_size=6 // world_size, rank=rank, world_size=world_size).epoch(1)
        for rank in range(world_size)
    ]
    for one, *parts in zip(whole, *ranks, strict=True):
        assert one.indices.tolist() == torch.cat([part.indices for part in parts]).tolist()
        # Chunks of another size may round differently: a few units in the last place of values up to 3
        torch.testing.assert_close(one.images, torch.cat([part.images for part in parts]), atol=1e-5, rtol=0)


@pytest.mark.parametrize("world_size", range(1, 6))
@pytest.mark.parametrize("count", [1, 9, 21])
def test_evaluation_ranks_see_every_image_once(index: ImageIndex, count: int, world_size: int) -> None:
    part = index.subset(range(count))
    seen = [
        batch.indices
        for rank in range(world_size)
        for batch in loader(part, batch_size=4, rank=rank, world_size=world_size).epoch(0)
    ]
    assert torch.cat(seen).tolist() == list(range(count))


@pytest.mark.parametrize("world_size", [2, 3])
def test_every_rank_resumes_inside_its_epoch(index: ImageIndex, world_size: int) -> None:
    for rank in range(world_size):
        options = {"batch_size": 2, "rank": rank, "world_size": world_size}
        whole = list(loader(index, TRAIN, **options).epoch(2))
        for start in range(len(whole)):
            assert_same(whole[start:], loader(index, TRAIN, **options).epoch(2, start))


def test_kept_batches_stay_untouched(index: ImageIndex) -> None:
    kept = []
    for batch in loader(index, TRAIN).epoch(0):
        kept.append((batch, batch.images.clone()))
    assert all(torch.equal(batch.images, copy) for batch, copy in kept)


def test_epochs_iterated_side_by_side_do_not_mix(index: ImageIndex) -> None:
    both = loader(index, TRAIN)
    expected = [list(loader(index, TRAIN).epoch(e)) for e in (0, 1)]
    pairs = list(zip(both.epoch(0), both.epoch(1), strict=True))
    assert_same([a for a, _ in pairs], expected[0])
    assert_same([b for _, b in pairs], expected[1])


def test_leaving_early_frees_the_pipeline_and_keeps_the_loader_usable(index: ImageIndex) -> None:
    early = loader(index, TRAIN)
    expected = list(loader(index, TRAIN).epoch(0))
    built: list[weakref.ref[object]] = []
    build = early._build

    def watched() -> object:
        stream = build()
        built.append(weakref.ref(stream.pipeline))
        return stream

    early._build = watched  # type: ignore[method-assign, assignment]
    iterator = early.epoch(0)
    next(iterator)
    iterator.close()  # type: ignore[attr-defined]
    gc.collect()
    assert len(built) == 1
    assert built[0]() is None
    assert_same(early.epoch(0), expected)


def test_a_discarded_loader_leaves_no_threads(index: ImageIndex) -> None:
    gc.collect()
    before = set(threading.enumerate())  # some may be ending: earlier tests' loaders
    started: set[threading.Thread] = set()
    for _ in range(3):
        short_lived = loader(index, TRAIN)
        next(iter(short_lived.epoch(0)))
        new = set(threading.enumerate()) - before - started
        assert new
        started |= new
        del short_lived
    gc.collect()
    for thread in started:
        thread.join(timeout=5)
    assert not any(thread.is_alive() for thread in started)


def test_torch_threads_elsewhere_keep_their_number(index: ImageIndex) -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        list(loader(index, TRAIN).epoch(0))
        assert torch.get_num_threads() == 2
        seen: list[int] = []
        thread = threading.Thread(target=lambda: seen.append(torch.get_num_threads()))
        thread.start()
        thread.join()
        assert seen == [2]
    finally:
        torch.set_num_threads(before)


def mean_difference(image: torch.Tensor, reference: torch.Tensor, std: tuple[float, ...]) -> float:
    """Mean absolute difference in grey levels of 255."""
    return float((image - reference).abs().mul(torch.tensor(std).view(3, 1, 1)).mean() * 255)


@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
@pytest.mark.parametrize(("size", "crop_pct"), [(64, 0.875), (97, 0.95), (224, 1.0)], ids=str)
def test_evaluation_agrees_with_timm(index: ImageIndex, size: int, crop_pct: float, interpolation: str) -> None:
    data = pytest.importorskip("timm.data", reason="needs timm")
    reference = data.create_transform(
        (3, size, size), is_training=False, interpolation=interpolation, crop_pct=crop_pct
    )
    transform = EvalTransform(size, crop_pct, interpolation=interpolation)
    for batch in loader(index, transform, batch_size=8).epoch(0):
        for image, position in zip(batch.images, batch.indices.tolist(), strict=True):
            expected = reference(Image.open(index.path(position)).convert("RGB"))
            assert mean_difference(image, expected, transform.std) < 2.0, index.files[position]


def test_resizing_inside_dali_agrees_too(index: ImageIndex) -> None:
    """The graph of the GPU path, built on the CPU: same geometry, DALI's own resampling."""
    for transform in (EvalTransform(61), TrainTransform(48, flip=0.0, color_jitter=0.0, erase_prob=0.0)):
        source = loader(index, transform, training=False, batch_size=7)
        job = source._job(0, np.arange(7), epoch=0)
        feed = dali_module._Feed(index, resizes=True)
        feed.jobs = iter([job])
        pipeline = dali_module._pipeline(feed, transform, on_gpu=False, batch_size=7, num_threads=2, device_id=None)
        pixels = torch.from_dlpack(pipeline.run()[0].as_tensor())
        inside = dali_module.finish(pixels.clone(), transform, job.draws)
        outside = next(iter(source.epoch(0))).images
        for ours, reference in zip(inside, outside, strict=True):
            assert mean_difference(ours, reference, transform.std) < 2.0


def test_training_windows_are_cut_where_they_were_drawn(index: ImageIndex) -> None:
    transform = TrainTransform(40, flip=0.0, color_jitter=0.0, erase_prob=0.0, mean=ZERO, std=ONE)
    source = loader(index, transform, training=False, batch_size=21)
    (batch,) = source.epoch(5)
    geometry = source._job(0, np.arange(21), epoch=5).geometry
    for k in range(21):
        (top, left), (rows, columns) = geometry.anchor[k], geometry.shape[k]
        crop = Image.open(index.path(k)).crop((left, top, left + columns, top + rows))
        expected = np.asarray(crop.resize((40, 40), Image.Resampling.BICUBIC), np.float32) / 255
        assert mean_difference(batch.images[k], torch.from_numpy(expected).permute(2, 0, 1), ONE) < 2.0


def save(image: Image.Image, path: Path, **options: object) -> None:
    image.save(path, **options)  # type: ignore[arg-type]


def exif_rotated(image: Image.Image, path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # orientation: to be turned by a quarter
    image.save(path, quality=95, exif=exif)


UNUSUAL = {
    "grey.jpg": lambda image, path: save(image.convert("L"), path, quality=95),
    "cmyk.jpg": lambda image, path: save(image.convert("CMYK"), path, quality=95),
    "progressive.jpg": lambda image, path: save(image, path, quality=95, progressive=True),
    "png-inside.JPEG": lambda image, path: save(image, path, format="PNG"),
    "exif-rotated.jpg": exif_rotated,
    "alpha.png": lambda image, path: save(Image.merge("RGBA", (*image.split(), image.split()[0])), path),
    "palette.png": lambda image, path: save(image.convert("P"), path),
    "bitmap.bmp": save,
    "lossless.webp": lambda image, path: save(image, path, lossless=True),
}


@pytest.mark.parametrize("name", UNUSUAL)
def test_unusual_file_looks_as_timm_sees_it(tmp_path: Path, name: str) -> None:
    (tmp_path / "a").mkdir()
    UNUSUAL[name](picture(120, 90, seed=1), tmp_path / "a" / name)
    (batch,) = loader(ImageIndex.scan(tmp_path), EvalTransform(48, 1.0, mean=ZERO, std=ONE), batch_size=1).epoch(0)
    image = Image.open(tmp_path / "a" / name).convert("RGB")
    expected = image.resize((64, 48), Image.Resampling.BICUBIC).crop((8, 0, 56, 48))
    assert mean_difference(batch.images[0], torch.from_numpy(np.array(expected)).permute(2, 0, 1) / 255, ONE) < 2.0


def jpeg(width: int, height: int, seed: int) -> bytes:
    buffer = io.BytesIO()
    picture(width, height, seed).save(buffer, "JPEG", quality=95)
    return buffer.getvalue()


DAMAGE = {
    "truncated": (lambda raw: raw[: len(raw) // 2], "truncated"),
    "emptied": (lambda raw: b"", "cannot identify"),
    "garbage": (lambda raw: b"\0" * len(raw), "cannot identify"),
    "resized": (lambda raw: jpeg(20, 30, 0), "was 160 x 120 pixels when it was scanned and is 20 x 30 now"),
    "deleted": (None, "No such file"),
}


@pytest.mark.parametrize("transform", [TRAIN, EVAL], ids=["train", "eval"])
@pytest.mark.parametrize("kind", DAMAGE)
def test_file_damaged_after_the_scan_is_named(
    photos: Path, tmp_path: Path, kind: str, transform: TrainTransform | EvalTransform
) -> None:
    root = Path(shutil.copytree(photos, tmp_path / "photos"))
    index = ImageIndex.scan(root)
    victim = root / "bee" / "1.jpg"
    damage, reason = DAMAGE[kind]
    victim.unlink() if damage is None else victim.write_bytes(damage(victim.read_bytes()))
    damaged = loader(index, transform)
    # A small training window may miss the damage; not four in a row.
    epochs = itertools.chain.from_iterable(damaged.epoch(epoch) for epoch in range(4))
    with pytest.raises(DataError, match=rf"cannot decode .*bee/1\.jpg: .*{reason}.*; replace or remove the file"):
        list(epochs)
    # The loader survives: the other images are still there.
    healthy = loader(index.subset([k for k in range(21) if index.files[k] != "bee/1.jpg"]), transform)
    assert len(list(healthy.epoch(0))) == len(healthy)


@pytest.mark.parametrize("transform", [TRAIN, EVAL], ids=["train", "eval"])
def test_one_image_decodes_alone_or_raises(
    photos: Path, tmp_path: Path, transform: TrainTransform | EvalTransform
) -> None:
    root = Path(shutil.copytree(photos, tmp_path / "photos"))
    some = loader(ImageIndex.scan(root), transform)
    victim = root / "ape" / "3.jpg"
    victim.write_bytes(victim.read_bytes()[:-500])
    some._decode_one(2)
    with pytest.raises(RuntimeError):
        some._decode_one(3)


def test_names_beyond_ascii(tmp_path: Path) -> None:
    (tmp_path / "größe Ω").mkdir()
    picture(40, 40, seed=0).save(tmp_path / "größe Ω" / "a b\N{SNOWMAN}.jpg")
    assert len(list(loader(ImageIndex.scan(tmp_path)).epoch(0))) == 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"device": "gpu"}, "device must be"),
        ({"device": "cuda:x"}, "device must be"),
        ({"batch_size": 0}, "batch_size must be at least 1"),
        ({"threads": 0}, "threads must be at least 1"),
        ({"prefetch": 0}, "prefetch must be at least 1"),
        ({"rank": 1}, "rank must be in 0..0"),
        ({"seed": -1}, "seed must be"),
        ({"dtype": torch.float16}, "dtype must be one of"),
    ],
    ids=["device", "device-number", "batch", "threads", "prefetch", "rank", "seed", "dtype"],
)
def test_bad_arguments_are_named(index: ImageIndex, options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        loader(index, **options)


def test_bad_positions_raise_at_the_call(index: ImageIndex) -> None:
    with pytest.raises(ValueError, match="epoch must not be negative"):
        loader(index).epoch(-1)
    with pytest.raises(ValueError, match=r"start_batch must be in 0\.\.6, got 7"):
        loader(index).epoch(0, 7)


def test_empty_index_is_refused(index: ImageIndex) -> None:
    with pytest.raises(ValueError, match="image index is empty"):
        loader(index.subset([]))


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without a GPU")
def test_missing_gpu_is_no_silent_fallback(index: ImageIndex) -> None:
    with pytest.raises(RuntimeError, match='torch sees no GPU; use device="cpu"'):
        loader(index, device="cuda")


def test_missing_dali_names_the_package(index: ImageIndex, monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "nvidia.dali", None)  # what an import then meets
    with pytest.raises(ImportError, match="pip install nvidia-dali-cuda130"):
        loader(index)


@pytest.mark.gpu
def test_gpu_batches_agree_with_cpu_batches(index: ImageIndex) -> None:
    for transform in (EVAL, TRAIN):
        pairs = zip(loader(index, transform, device="cuda").epoch(1), loader(index, transform).epoch(1), strict=True)
        for on_gpu, on_cpu in pairs:
            assert on_gpu.images.is_cuda
            assert on_gpu.labels.is_cuda
            assert on_gpu.indices.is_cuda
            assert on_gpu.indices.tolist() == on_cpu.indices.tolist()
            for ours, reference in zip(on_gpu.images.cpu(), on_cpu.images, strict=True):
                assert mean_difference(ours, reference, transform.std) < 2.0


@pytest.mark.gpu
def test_gpu_epoch_is_bit_identical_when_resumed(index: ImageIndex) -> None:
    whole = list(loader(index, TRAIN, device="cuda").epoch(0))
    assert_same(whole[2:], loader(index, TRAIN, device="cuda").epoch(0, 2))
