"""The suite's options, what its records say about the machine, and how a race's times become pytest-benchmark's."""

from __future__ import annotations

import hashlib
import json
import os
from functools import partial
from typing import Any

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from benchmarks.machine import facts, threads
from benchmarks.replay import ReplayClock, Report, hand_over, tier_of
from benchmarks.worker import ROOT, Races


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("dna_fast benchmarks")
    group.addoption(
        "--full", action="store_true", help="every layer, operator and path (an hour or more), not a choice of them"
    )
    group.addoption(
        "--resume", action="store_true", help="keep races that an interrupted session of the same sources has run"
    )
    group.addoption("--photos", metavar="FOLDER", help="a folder of class folders of photographs, for bench_loader.py")


def pytest_benchmark_update_machine_info(config: pytest.Config, machine_info: dict[str, Any]) -> None:
    machine_info.clear()  # the plugin's own record names the host
    machine_info.update(facts())


def pytest_benchmark_update_json(config: pytest.Config, benchmarks: object, output_json: dict[str, Any]) -> None:
    output_json["tier"] = tier_of(config)


@pytest.fixture(scope="session")
def races(request: pytest.FixtureRequest) -> Races:
    """Runs races in their own processes, each once."""
    return Races(_identity(), resume=request.config.getoption("--resume"))


def _identity() -> str:
    """Changes with everything that a race depends on: machine, versions, sources, compiled modules."""
    digest = hashlib.sha256(json.dumps(facts()).encode())
    for folder in ("dna_fast", "benchmarks"):
        for path in sorted((ROOT / folder).rglob("*")):
            if path.suffix in (".py", ".so", ".cpp"):
                digest.update(str(path.relative_to(ROOT)).encode() + path.read_bytes())
    return digest.hexdigest()


@pytest.fixture
def report(request: pytest.FixtureRequest, benchmark: BenchmarkFixture) -> Report:
    """Reports one contestant of a race that has been run."""
    return partial(hand_over, benchmark, request.node.get_closest_marker("benchmark").kwargs["timer"])


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if "report" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.benchmark(timer=ReplayClock()))


def pytest_configure(config: pytest.Config) -> None:
    # Races run in processes that inherit this; torch's own default counts cores that the process may not use.
    os.environ.setdefault("OMP_NUM_THREADS", str(threads()))
