"""How a race's times become pytest-benchmark's: its timer replays them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

Report = Callable[[str, dict[str, Any], dict[str, Any]], None]  # race's name, race's facts, entry with `seconds`


def tier_of(config: pytest.Config) -> str:
    """quick or full."""
    return "full" if config.getoption("--full") else "quick"


class ReplayClock:
    """A timer that shows the time of a race which has already been run."""

    __name__ = "perf_counter of the race"  # what the plugin's record calls the timer

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def hand_over(
    benchmark: BenchmarkFixture, clock: ReplayClock, name: str, race: dict[str, Any], entry: dict[str, Any]
) -> None:
    """Gives one contestant's times to pytest-benchmark, which must time with `clock`."""
    fields = dict(entry)
    rounds: list[float] = fields.pop("seconds")
    left = iter(rounds)

    def replay() -> None:
        clock.now += next(left)

    benchmark.group = name
    benchmark.extra_info.update(race=race, entry=fields)
    benchmark.pedantic(replay, rounds=len(rounds))  # type: ignore[no-untyped-call]
