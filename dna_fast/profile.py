"""Measures a space on this device: every distinct layer, and some whole networks, in rounds that interleave them all.

A slow minute of the machine then falls on one round of everything, not on one layer, and the median drops it.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Protocol

import numpy as np
import torch

from dna_fast._loop import deferred_interrupt
from dna_fast.about import facts
from dna_fast.architecture import Architecture
from dna_fast.cost import cost_table
from dna_fast.profile_layers import IMPLEMENTATIONS, Setting, space_layers
from dna_fast.profile_models import (
    Runner,
    fused_kept_because,
    layer_runner,
    network_runner,
    peak_activation_bytes,
)
from dna_fast.profile_table import Network, Profile, Timing, check_device
from dna_fast.space import SearchSpace
from dna_fast.study_sampling import cost_edges, stratified_sample

ROUNDS = 15  # an odd number, so that the median is a sample
WARMUP_NS = 20_000_000  # caches, lazy initialisation, clocks that speed up
WARMUP_CALLS = 3
SAMPLE_NS = (
    2_000_000  # a sample repeats short calls until a timer's grain and an interrupt's microseconds are small in it
)


@dataclass(frozen=True)
class Plan:
    """What to measure.

    Args:
        space: whose layers.
        settings: every layer and network in each of them.
        networks: whole architectures, to validate sums over layers.
        rounds: samples of each.
    """

    space: SearchSpace
    settings: tuple[Setting, ...]
    networks: tuple[tuple[int, ...], ...] = ()
    rounds: int = ROUNDS

    def __post_init__(self) -> None:
        if self.rounds < 1:
            raise ValueError(f"profile: rounds must be >= 1, got {self.rounds}")
        if not self.settings:
            raise ValueError("profile: expected at least one setting, got none")


@dataclass(frozen=True)
class Stopwatch:
    """How time is taken.

    Args:
        now_ns: a clock that never goes back.
        wait: returns when the device has done all it was given.
    """

    now_ns: Callable[[], int] = time.perf_counter_ns
    wait: Callable[[], None] = lambda: None

    def time_ns(self, call: Callable[[], object], times: int) -> int:
        """Of `times` calls in a row."""
        self.wait()
        start = self.now_ns()
        for _ in range(times):
            call()
        self.wait()
        return self.now_ns() - start


class OnSample(Protocol):
    """Hears of every sample: how many there are, and how many there will be."""

    def __call__(self, done: int, total: int) -> None: ...


@dataclass
class _Case:
    """Something to time, prepared when its turn first comes."""

    timing: Timing
    prepare: Callable[[], Runner]
    is_network: bool = False
    runner: Runner | None = None
    calls: int = 1

    def sample(self, watch: Stopwatch, device: torch.device) -> None:
        if self.runner is None:
            self.runner = self.prepare()
            self.timing.kept = self.runner.kept
            self.calls = _warmed_up(self.runner, watch)
            if self.is_network and self.timing.peak_bytes is None:
                self.timing.peak_bytes = peak_activation_bytes(self.runner, device)
        self.timing.samples_us.append(watch.time_ns(self.runner.call, self.calls) / self.calls / 1000)


def measure(
    plan: Plan,
    path: Path,
    device: torch.device,
    rng: np.random.Generator,
    *,
    watch: Stopwatch | None = None,
    on_sample: OnSample | None = None,
) -> Profile:
    """Measures what a profile lacks of a plan, and writes it after every round and on Ctrl-C.

    Args:
        path: of the profile; what it holds of this device is kept and added to.
        device: where to run.
        rng: shuffles every round, so that no layer always follows the same other.
        watch: default the device's.

    Returns:
        The profile, with every layer and network of the plan `plan.rounds` times.

    Raises:
        ValueError: the file is of another device.
        RuntimeError: fused was asked for, and no layer can run so on this device.
        KeyboardInterrupt: Ctrl-C, once the sample under way is taken and written.
    """
    watch = watch or stopwatch(device)
    profile = _opened(path, device_facts(device))
    _check_fused(plan, device)
    cases = _cases(plan, profile, device)
    total = plan.rounds * len(cases)
    with deferred_interrupt() as interrupted:
        for number in range(plan.rounds):
            due = [case for case in cases if len(case.timing.samples_us) <= number]
            for place in rng.permutation(len(due)):
                due[place].sample(watch, device)
                if on_sample is not None:
                    on_sample(sum(min(len(c.timing.samples_us), plan.rounds) for c in cases), total)
                if interrupted.is_set():
                    _measured(profile).save(path, [plan.space])
                    raise KeyboardInterrupt
            if due:
                _measured(profile).save(path, [plan.space])
    return profile


def device_facts(device: torch.device) -> dict[str, str]:
    """What latencies depend on besides layers: device, threads, versions and build."""
    found = facts()
    wanted = ("processor", "torch", "timm", "dna_fast", "torch ops (dna_fast._C)", "CPU kernels", "CUDA kernels")
    known = {"device": device.type} | {name: found[name] for name in wanted if name in found}
    if device.type == "cuda":
        return known | {"GPU": torch.cuda.get_device_name(device)}
    return known | {"threads": str(torch.get_num_threads())}


def stopwatch(device: torch.device) -> Stopwatch:
    """Of a device: a GPU's waits until it is done."""
    return Stopwatch(wait=torch.cuda.synchronize) if device.type == "cuda" else Stopwatch()


def implementations(device: torch.device) -> tuple[str, ...]:
    """What a device can run layers by."""
    return tuple(name for name in IMPLEMENTATIONS if name != "fused" or not fused_kept_because(device))


def _opened(path: Path, here: dict[str, str]) -> Profile:
    if not path.exists():
        return Profile(here)
    profile = Profile.load(path)
    check_device(path, profile.device, here)
    return profile


def _check_fused(plan: Plan, device: torch.device) -> None:
    asked = any(setting.implementation == "fused" for setting in plan.settings)
    if asked and (reason := fused_kept_because(device)):
        raise RuntimeError(f"profile: no layer can run fused on {device}: {reason}; ask for --implementation torch")


def _cases(plan: Plan, profile: Profile, device: torch.device) -> list[_Case]:
    cases = []
    for setting in plan.settings:
        for key in space_layers(plan.space):
            timing = profile.layers.setdefault((key, setting), Timing())
            cases.append(_Case(timing, partial(layer_runner, key, setting, device)))
        for choice in plan.networks:
            arch = Architecture.from_space(plan.space, choice)
            timing = profile.networks.setdefault((Network(plan.space.sha256, choice), setting), Timing())
            cases.append(_Case(timing, partial(network_runner, arch, setting, device), is_network=True))
    return cases


def _measured(profile: Profile) -> Profile:
    """Without what has no sample yet."""
    layers = {key: timing for key, timing in profile.layers.items() if timing.samples_us}
    networks = {key: timing for key, timing in profile.networks.items() if timing.samples_us}
    return Profile(profile.device, layers, networks)


def _warmed_up(runner: Runner, watch: Stopwatch) -> int:
    """Calls something until it is warm; returns how many calls make a sample."""
    spent, calls = 0, 0
    while spent < WARMUP_NS or calls < WARMUP_CALLS:
        last = watch.time_ns(runner.call, 1)
        spent, calls = spent + last, calls + 1
    return max(1, math.ceil(SAMPLE_NS / max(last, 1)))


def spread_networks(space: SearchSpace, count: int, rng: np.random.Generator) -> tuple[tuple[int, ...], ...]:
    """Random architectures from the cheapest to the dearest: one from each of `count` buckets of macs, uniform within.

    Drawn uniformly from the whole space they would crowd around its middle, and say little of how latency grows. A small space
    has buckets without architectures; there are fewer networks then.
    """
    if count < 1:
        return ()
    table, found = cost_table(space), []
    edges = cost_edges(table, "macs", count)
    for i in range(count):
        with suppress(ValueError):  # nothing costs so much
            found += stratified_sample(table, "macs", edges[i : i + 2], 1, rng)[0]
    return tuple(dict.fromkeys(found))
