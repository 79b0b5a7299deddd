"""Choosing threads and prefetching: the smallest settings beyond which a loader hardly gets faster."""

import time
from collections.abc import Callable, Iterator

import pytest

from dna_fast.data import tuning
from dna_fast.data.loader import Batch
from dna_fast.data.tuning import Settings, images_per_s, tune

Pair = tuple[int, int]


def tuned(speed: Callable[[int, int], float], **options: int) -> tuple[Settings, list[Pair]]:
    """The choice for a machine of such speeds, and what was tried for it."""
    tried: list[Pair] = []

    def make(threads: int, prefetch: int) -> Pair:
        tried.append((threads, prefetch))
        return threads, prefetch

    settings = tune(make, measure=lambda pair: speed(*pair), **options)  # type: ignore[arg-type, misc]
    return settings, tried


def test_as_many_threads_as_help() -> None:
    settings, tried = tuned(lambda threads, prefetch: 100.0 * min(threads, 5), most_threads=16)
    assert settings == Settings(8, 2, 500.0)
    assert tried == [(1, 2), (2, 2), (4, 2), (8, 2), (16, 2), (8, 4)]


def test_a_disk_that_one_thread_exhausts() -> None:
    settings, tried = tuned(lambda threads, prefetch: 100.0, most_threads=16)
    assert settings == Settings(1, 2, 100.0)
    assert tried == [(1, 2), (2, 2), (1, 4)]


def test_prefetching_is_kept_where_it_pays() -> None:
    settings, _ = tuned(lambda threads, prefetch: 50.0 * threads * prefetch, most_threads=2)
    assert settings == Settings(2, 4, 400.0)


def test_all_cores_are_tried_where_they_are_no_power_of_two() -> None:
    _, tried = tuned(lambda threads, prefetch: float(threads), most_threads=6)
    assert [threads for threads, prefetch in tried if prefetch == 2] == [1, 2, 4, 6]


def test_what_is_given_is_not_varied() -> None:
    assert tuned(lambda *_: 7.0, threads=3, prefetch=5) == (Settings(3, 5, 7.0), [(3, 5)])
    assert tuned(lambda threads, prefetch: float(prefetch), threads=3)[0] == Settings(3, 4, 4.0)


def test_the_cores_of_the_process_are_the_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tuning.os, "sched_getaffinity", lambda _: {0, 1, 2})
    assert tuned(lambda threads, prefetch: float(threads))[0].threads == 3


def test_settings_are_told() -> None:
    assert str(Settings(8, 2, 1234.5)) == "8 threads, 2 batches ahead, 1,234 images/s"
    assert str(Settings()) == "2 threads, 2 batches ahead"


class Slow:
    """A loader that takes a while to start and then gives 8 images every 5 ms."""

    batch_size, num_images = 8, 0

    def __init__(self, batches: int, start_s: float = 0.0) -> None:
        self.batches, self.start_s = batches, start_s

    def __len__(self) -> int:
        return self.batches

    def epoch(self, epoch: int, start_batch: int = 0) -> Iterator[Batch]:
        for k in range(self.batches):
            time.sleep(0.005 if k or epoch else self.start_s)
            yield Batch([0] * 8, None, None)  # type: ignore[arg-type]


def test_the_start_of_a_pipeline_does_not_count() -> None:
    # 1600 images/s; sleeps take longer on a busy machine, never less, and the start would make it 40 at most.
    assert 200 < images_per_s(Slow(1000, start_s=0.2), seconds=0.1) < 1610


def test_a_small_set_is_read_again_and_again() -> None:
    assert 200 < images_per_s(Slow(3), seconds=0.1) < 1610


@pytest.mark.parametrize("batches", [0, 1])
def test_too_few_batches_to_measure(batches: int) -> None:
    assert images_per_s(Slow(batches), seconds=10.0) == 0.0
