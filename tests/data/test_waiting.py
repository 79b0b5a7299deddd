"""A loader that keeps its model waiting says so, once."""

import logging
from collections.abc import Iterator

import pytest

from dna_fast.data.waiting import LOOK_SECONDS, Waiting


class Clock:
    """Time that passes only when told to."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def train(load_s: float, step_s: float, batches: int) -> Waiting:
    """A loop whose loader and model take this long per batch of 8; the first batch takes a minute."""
    clock = Clock()
    waiting = Waiting("buy a faster disk", clock)

    def load() -> Iterator[int]:
        for k in range(batches):
            clock.now += load_s if k else 60.0
            yield 8

    for _ in waiting.watch(load(), lambda batch: batch):
        clock.now += step_s
    return waiting


def test_the_share_leaves_the_start_of_the_pipeline_out() -> None:
    waiting = train(load_s=1.0, step_s=3.0, batches=11)
    assert waiting.share == pytest.approx(0.25)
    assert waiting.total_s == pytest.approx(40.0)
    assert waiting.images == 80


def test_nothing_is_known_of_one_batch() -> None:
    assert train(1.0, 1.0, batches=1).share == 0.0


@pytest.mark.parametrize(
    ("load_s", "step_s", "batches", "told"),
    [(1.0, 3.0, 100, 1), (0.1, 0.9, 100, 0), (1.0, 1.0, int(LOOK_SECONDS / 2) - 1, 0)],
    ids=["starved", "fed", "too-short-to-tell"],
)
def test_a_starved_model_is_reported_once(
    caplog: pytest.LogCaptureFixture, load_s: float, step_s: float, batches: int, told: int
) -> None:
    with caplog.at_level(logging.WARNING, "dna_fast.data"):
        train(load_s, step_s, batches)
    assert caplog.text.count("the model waits for images") == told
    if told:
        assert "25 % of the time (2 images/s come); buy a faster disk" in caplog.text


def test_epochs_add_up() -> None:
    clock, total = Clock(), 0.0
    waiting = Waiting("", clock)
    for _ in range(3):

        def load() -> Iterator[int]:
            for _ in range(3):
                clock.now += 1.0
                yield 1

        for _ in waiting.watch(load(), lambda batch: batch):
            clock.now += 1.0
        total += 4.0
    assert waiting.total_s == pytest.approx(total)
    assert waiting.share == pytest.approx(0.5)
