"""Files that fail while they are read: named, or counted and got over, and the same images again after a resume."""

import itertools
import logging
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="needs torch")
pytest.importorskip("nvidia.dali", reason="needs DALI")

from dna_fast.data import Batch, DaliLoader, DataError, EvalTransform, ImageIndex, TrainTransform  # noqa: E402
from dna_fast.data import dali as dali_module  # noqa: E402
from dna_fast.data.probe import find_faults  # noqa: E402

TRAIN, EVAL = TrainTransform(32), EvalTransform(32)
VICTIM = 8  # bee/1.jpg


def loader(index: ImageIndex, transform: TrainTransform | EvalTransform = EVAL, **options: object) -> DaliLoader:
    training = isinstance(transform, TrainTransform)
    given = {"batch_size": 4, "seed": 0, "training": training, "on_bad": "skip", **options}
    return DaliLoader(index, transform, **given)  # type: ignore[arg-type]


@pytest.fixture
def damaged(photos: Path, tmp_path: Path) -> ImageIndex:
    """An index of 21 images, one of which was emptied after the scan."""
    index = ImageIndex.scan(shutil.copytree(photos, tmp_path / "photos"))
    Path(index.path(VICTIM)).write_bytes(b"")
    return index


def indices(batches: list[Batch]) -> list[list[int]]:
    return [batch.indices.tolist() for batch in batches]


def assert_same(first: list[Batch], second: list[Batch]) -> None:
    for a, b in itertools.zip_longest(first, second):
        assert torch.equal(a.indices, b.indices)
        assert torch.equal(a.images, b.images)


def test_evaluation_leaves_a_damaged_image_out(damaged: ImageIndex, caplog: pytest.LogCaptureFixture) -> None:
    skipping = loader(damaged)
    seen = indices(list(skipping.epoch(0)))
    assert [k for batch in seen for k in batch] == [k for k in range(21) if k != VICTIM]
    assert [len(batch) for batch in seen] == [4, 4, 3, 4, 4, 1]  # no other batch changes
    assert list(skipping.damaged) == [VICTIM]
    assert caplog.text.count("cannot decode") == 1
    assert "bee/1.jpg" in caplog.text
    assert_same(list(skipping.epoch(0)), list(loader(damaged).epoch(0)))
    assert caplog.text.count("cannot decode") == 2  # by the new loader; the old one knew


def test_an_evaluation_batch_of_damaged_images_alone_is_not_given(damaged: ImageIndex) -> None:
    assert indices(list(loader(damaged, batch_size=1).epoch(0))) == [[k] for k in range(21) if k != VICTIM]


def test_training_replaces_a_damaged_image_and_touches_no_other(damaged: ImageIndex, photos: Path) -> None:
    skipping = loader(damaged, TRAIN, batch_size=7)
    seen = list(skipping.epoch(0))
    healthy = list(loader(ImageIndex.scan(photos), TRAIN, batch_size=7).epoch(0))
    assert list(skipping.damaged) == [VICTIM]
    replaced = 0
    for ours, expected in zip(seen, healthy, strict=True):
        assert len(ours.images) == 7
        for k in range(7):
            if expected.indices[k] == VICTIM:
                replaced += 1
                assert ours.indices[k] != VICTIM
                assert ours.labels[k] == damaged.labels[ours.indices[k]]
            else:
                assert ours.indices[k] == expected.indices[k]
                assert torch.equal(ours.images[k], expected.images[k])
    assert replaced == 1


def test_a_resumed_epoch_has_the_same_substitutes(damaged: ImageIndex) -> None:
    whole = list(loader(damaged, TRAIN).epoch(3))
    for start in range(len(whole)):
        assert_same(whole[start:], list(loader(damaged, TRAIN).epoch(3, start)))


def test_substitutes_differ_between_epochs(damaged: ImageIndex) -> None:
    skipping = loader(damaged, TRAIN, batch_size=21)
    orders = [next(iter(skipping.epoch(epoch))).indices for epoch in range(6)]
    taken = [set(range(21)) - set(order.tolist()) for order in orders]
    assert all(VICTIM in missing for missing in taken)
    substitutes = [int(np.bincount(order.numpy(), minlength=21).argmax()) for order in orders]
    assert len(set(substitutes)) > 1


@pytest.mark.parametrize("world_size", [1, 2, 5])
def test_ranks_agree_on_what_is_left_out(damaged: ImageIndex, world_size: int) -> None:
    seen = [
        k
        for rank in range(world_size)
        for batch in loader(damaged, batch_size=2, rank=rank, world_size=world_size).epoch(0)
        for k in batch.indices.tolist()
    ]
    assert seen == [k for k in range(21) if k != VICTIM]


@pytest.mark.parametrize("transform", [TRAIN, EVAL], ids=["train", "eval"])
def test_too_many_damaged_images_stop_the_loader(
    photos: Path, tmp_path: Path, transform: TrainTransform | EvalTransform
) -> None:
    index = ImageIndex.scan(shutil.copytree(photos, tmp_path / "photos"))
    shutil.rmtree(tmp_path / "photos")  # as when a disk goes
    with pytest.raises(DataError, match=r"of 21 images cannot be decoded.*No such file.*check the disk"):
        list(loader(index, transform).epoch(0))


def fail_once(monkeypatch: pytest.MonkeyPatch, some: DaliLoader, times: int) -> None:
    """Lets the third run of a pipeline fail as often as asked, for no reason that lies in a file."""
    run, left, calls = some._run, [times], [0]

    def failing(stream: object) -> object:
        calls[0] += 1
        outputs = run(stream)  # type: ignore[arg-type]
        if left[0] and calls[0] >= 3:
            left[0] -= 1
            raise RuntimeError("Critical error in pipeline:\nRuntimeError: network down")
        return outputs

    monkeypatch.setattr(some, "_run", failing)


@pytest.mark.parametrize("on_bad", ["skip", "error"])
def test_a_failure_that_passes_is_got_over(
    photos: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, on_bad: str
) -> None:
    index = ImageIndex.scan(photos)
    expected = list(loader(index, TRAIN).epoch(1))
    shaky = loader(index, TRAIN, on_bad=on_bad)
    fail_once(monkeypatch, shaky, times=1)
    with caplog.at_level(logging.WARNING, "dna_fast.data"):
        assert_same(list(shaky.epoch(1)), expected)
    assert "yet each decodes alone: RuntimeError: network down; the batch is read once more" in caplog.text
    assert not shaky.damaged


def test_a_failure_that_stays_is_raised(photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    broken = loader(ImageIndex.scan(photos), TRAIN)
    fail_once(monkeypatch, broken, times=2)
    with pytest.raises(DataError, match="each decodes alone: RuntimeError: network down; try a smaller batch_size"):
        list(broken.epoch(1))


def test_images_added_or_replaced_during_the_run_do_not_change_its_order(photos: Path, tmp_path: Path) -> None:
    index = ImageIndex.scan(shutil.copytree(photos, tmp_path / "photos"))
    changing, expected = loader(index), list(loader(index).epoch(0))
    batches = iter(changing.epoch(0))
    first = next(batches)
    shutil.copy(index.path(0), tmp_path / "photos" / "ape" / "00.jpg")
    assert_same([first, *batches], expected)
    assert_same(list(changing.epoch(0)), expected)


@pytest.mark.parametrize("position", [0, 9, 20])
def test_all_before_a_damaged_image_is_delivered(photos: Path, tmp_path: Path, position: int) -> None:
    index = ImageIndex.scan(shutil.copytree(photos, tmp_path / "photos"))
    Path(index.path(position)).write_bytes(b"")
    seen = []
    with pytest.raises(DataError, match="cannot decode"):
        seen.extend(loader(index, batch_size=1, on_bad="error").epoch(0))
    assert indices(seen) == [[k] for k in range(position)]


def test_what_fails_in_a_worker_reaches_the_caller(photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(*_: object) -> None:
        raise MemoryError("no room")

    monkeypatch.setattr(dali_module, "finish", failing)
    with pytest.raises(MemoryError, match="no room"):
        list(loader(ImageIndex.scan(photos), TRAIN).epoch(0))


def children() -> set[str]:
    """Process ids of all that this process has started."""
    return {pid for path in Path("/proc/self/task").glob("*/children") for pid in path.read_text().split()}


@pytest.mark.skipif(
    not list(Path("/proc/self/task").glob("*/children")), reason="needs /proc/<pid>/task/<tid>/children"
)
def test_a_loader_starts_no_process_that_could_be_killed(photos: Path) -> None:
    before = children()
    batches = loader(ImageIndex.scan(photos), TRAIN).epoch(0)
    next(batches)
    assert children() <= before


def test_unknown_policy(photos: Path) -> None:
    with pytest.raises(ValueError, match='on_bad must be "error" or "skip", got \'ignore\''):
        loader(ImageIndex.scan(photos), on_bad="ignore")


def decoder(bad: int) -> Callable[[int], None]:
    def decode_one(position: int) -> None:
        if position == bad:
            raise RuntimeError(
                "Critical error in pipeline:\nError in CPU operator\nRuntimeError: unsupported colour space"
            )

    return decode_one


def test_image_that_only_dali_refuses_is_named(photos: Path) -> None:
    index = ImageIndex.scan(photos)
    assert find_faults(index, [3, 5, 6], decoder(5)) == {
        5: "PIL can decode it, DALI cannot: RuntimeError: unsupported colour space"
    }
    assert find_faults(index, [3, 6], decoder(5)) == {}


def test_all_damaged_images_of_a_batch_are_found_at_once(damaged: ImageIndex) -> None:
    Path(damaged.path(3)).unlink()
    assert set(find_faults(damaged, range(21), decoder(-1))) == {3, VICTIM}
