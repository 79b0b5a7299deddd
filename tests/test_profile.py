"""Measuring: rounds against a clock of our own, interruption, what is run (counted by torch), memory, the command line."""

from __future__ import annotations

import json
import os
import signal
import sys
from collections import Counter
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from small_run import CONFIG
from torch.utils.flop_counter import FlopCounterMode

from dna_fast import cli, profile
from dna_fast.architecture import Architecture
from dna_fast.cost import architecture_cost, cost_table
from dna_fast.pipeline import Run
from dna_fast.profile import Plan, Stopwatch, measure, spread_networks
from dna_fast.profile_layers import LayerKey, Setting, architecture_layers, space_layers
from dna_fast.profile_models import Runner, layer_runner, network_runner, peak_activation_bytes
from dna_fast.profile_table import Network, Profile, Timing
from dna_fast.space import SearchSpace
from dna_fast.tables import CostTable, RatingTable

CPU = torch.device("cpu")
SPACE = SearchSpace.from_dict(CONFIG["space"])
LAYERS = space_layers(SPACE)
ALL = list(product(*(range(SPACE.num_candidates(b)) for b in range(len(SPACE.blocks)))))
PLAIN, FUSED = (Setting(1, "float32", name) for name in ("torch", "fused"))


def rng() -> np.random.Generator:
    return np.random.default_rng(0)


class Clock:
    """Time that passes only when something is called."""

    def __init__(self) -> None:
        self.ns, self.slow, self.calls = 0, 1, Counter[LayerKey]()
        self.order: list[LayerKey] = []

    def runner(self, key: LayerKey, setting: Setting, device: torch.device) -> Runner:
        def call() -> None:
            self.calls[key] += 1
            self.ns += self.slow * cost_ns(key)
            if self.order[-1:] != [key]:
                self.order.append(key)

        return Runner(call)

    def watch(self) -> Stopwatch:
        return Stopwatch(lambda: self.ns)


def cost_ns(key: LayerKey) -> int:
    return 1000 * (LAYERS.index(key) + 1)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(profile, "layer_runner", clock.runner)
    monkeypatch.setattr(profile, "WARMUP_NS", 100_000)
    monkeypatch.setattr(profile, "SAMPLE_NS", 50_000)
    return clock


# ---- rounds ---------------------------------------------------------------------------------------------------------


def test_every_layer_is_timed_once_per_round_between_the_others(clock: Clock, tmp_path: Path) -> None:
    found = measure(Plan(SPACE, (PLAIN,), rounds=5), tmp_path / "p.json", CPU, rng(), watch=clock.watch())
    assert {key: t.samples_us for (key, _), t in found.layers.items()} == {k: [cost_ns(k) / 1000] * 5 for k in LAYERS}
    rounds = [clock.order[i : i + len(LAYERS)] for i in range(0, len(clock.order), len(LAYERS))]
    assert len(rounds) == 5
    assert all(set(each) == set(LAYERS) for each in rounds)
    assert rounds[0] != rounds[1]


def test_short_calls_are_repeated_and_warmed_up(clock: Clock, tmp_path: Path) -> None:
    measure(Plan(SPACE, (PLAIN,), rounds=2), tmp_path / "p.json", CPU, rng(), watch=clock.watch())
    for key in LAYERS:
        warm_up, sample = max(3, -(-100_000 // cost_ns(key))), max(1, -(-50_000 // cost_ns(key)))
        assert clock.calls[key] == warm_up + 2 * sample


def test_a_slow_minute_does_not_move_the_medians(clock: Clock, tmp_path: Path) -> None:
    """One round of five at a tenth of the speed: every layer has one slow sample and its own median."""

    def on_sample(done: int, total: int) -> None:
        clock.slow = 10 if len(LAYERS) <= done < 2 * len(LAYERS) else 1

    plan = Plan(SPACE, (PLAIN,), rounds=5)
    found = measure(plan, tmp_path / "p.json", CPU, rng(), watch=clock.watch(), on_sample=on_sample)
    for (key, _), timing in found.layers.items():
        assert sorted(timing.samples_us)[-1] == pytest.approx(10 * cost_ns(key) / 1000)
        assert timing.median_us == pytest.approx(cost_ns(key) / 1000)


def test_an_interrupted_profile_goes_on_where_it_stopped(clock: Clock, tmp_path: Path) -> None:
    plan, path, told = Plan(SPACE, (PLAIN,), rounds=3), tmp_path / "p.json", []

    def interrupt(done: int, total: int) -> None:
        told.append((done, total))
        if done == len(LAYERS) + 4:
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        measure(plan, path, CPU, rng(), watch=clock.watch(), on_sample=interrupt)
    half = Profile.load(path)
    assert sum(len(timing.samples_us) for timing in half.layers.values()) == len(LAYERS) + 4
    assert told[-1] == (len(LAYERS) + 4, 3 * len(LAYERS))

    told.clear()
    measure(plan, path, CPU, rng(), watch=clock.watch(), on_sample=lambda *done: told.append(done))
    assert told[0] == (len(LAYERS) + 5, 3 * len(LAYERS))
    assert {len(timing.samples_us) for timing in Profile.load(path).layers.values()} == {3}
    told.clear()
    measure(plan, path, CPU, rng(), watch=clock.watch(), on_sample=lambda *done: told.append(done))
    assert told == []


def test_an_interruption_in_the_first_round_leaves_a_file_that_can_be_read(clock: Clock, tmp_path: Path) -> None:
    def interrupt(done: int, total: int) -> None:
        os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        measure(Plan(SPACE, (PLAIN,)), tmp_path / "p.json", CPU, rng(), watch=clock.watch(), on_sample=interrupt)
    half = Profile.load(tmp_path / "p.json")
    assert len(half.layers) == 1
    assert not half.is_complete(SPACE)


def test_another_devices_profile_is_not_added_to(clock: Clock, tmp_path: Path) -> None:
    here = profile.device_facts(CPU)
    Profile({**here, "threads": "64"}, {(LAYERS[0], PLAIN): Timing([1.0])}).save(tmp_path / "p.json")
    with pytest.raises(ValueError, match=r"measured on another device: threads is '64' there and .* another --out"):
        measure(Plan(SPACE, (PLAIN,)), tmp_path / "p.json", CPU, rng(), watch=clock.watch())


def test_fused_is_refused_where_no_layer_can(clock: Clock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(profile, "fused_kept_because", lambda device: "there is no kernel for it yet")
    assert profile.implementations(CPU) == ("torch",)
    with pytest.raises(RuntimeError, match="no layer can run fused on cpu: there is no kernel for it yet"):
        measure(Plan(SPACE, (PLAIN, FUSED)), tmp_path / "p.json", CPU, rng(), watch=clock.watch())


def test_networks_range_from_cheap_to_dear() -> None:
    choices = spread_networks(SPACE, 5, rng())
    macs = [cost_table(SPACE).total(choice)["macs"] for choice in choices]
    assert macs == sorted(macs)
    assert len(set(choices)) == 5
    assert choices == spread_networks(SPACE, 5, rng())
    assert spread_networks(SPACE, 0, rng()) == ()
    many = spread_networks(SPACE, 500, rng())  # more buckets than there are architectures
    assert len(ALL) / 2 < len(many) == len(set(many)) <= len(ALL)


# ---- what is run ----------------------------------------------------------------------------------------------------


def macs_of(runner: Runner) -> int:
    with FlopCounterMode(display=False) as counter:
        runner.call()
    return int(counter.get_total_flops()) // 2


@pytest.mark.parametrize("choice", [ALL[0], ALL[-1]], ids=["first", "last"])
def test_pieces_do_the_work_of_the_whole_network(choice: tuple[int, ...]) -> None:
    """torch counts as many multiply-accumulates in the pieces as in the network and in the cost model."""
    arch, setting = Architecture.from_space(SPACE, choice), Setting(2, "float32", "torch")
    pieces = sum(macs_of(layer_runner(key, setting, CPU)) for key in architecture_layers(arch))
    assert pieces == macs_of(network_runner(arch, setting, CPU)) == 2 * architecture_cost(arch)["macs"]


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_fused_pieces_are_fused_and_give_the_same(dtype: str) -> None:
    for key in LAYERS:
        plain, fused = (layer_runner(key, Setting(2, dtype, name), CPU) for name in ("torch", "fused"))
        assert bool(fused.kept) == (key.part == "head"), key
        a, b = plain.call().double(), fused.call().double()
        # each rounds a chain of some ten roundings in its own way
        assert (a - b).norm() <= 20 * torch.finfo(getattr(torch, dtype)).eps * a.norm(), key


def test_a_fused_network_is_fused() -> None:
    """The fused op is no convolution that torch counts: what is left is the stem's first layer and the head."""
    arch = Architecture.from_space(SPACE, ALL[0])
    left = sum(macs_of(layer_runner(key, FUSED, CPU)) for key in architecture_layers(arch) if key.part != "mbconv")
    assert macs_of(network_runner(arch, FUSED, CPU)) == left > 0


def test_peak_memory_by_hand() -> None:
    """A chain of 4 kB tensors: each is dropped when the next is made, so two are there at once; x is not counted."""
    x = torch.zeros(1024)
    assert peak_activation_bytes(Runner(lambda: ((((x + 1) * 2) - 3) / 4).view(32, 32)), CPU) == 2 * 4096
    assert peak_activation_bytes(Runner(lambda: x.view(32, 32)), CPU) == 0

    def three() -> torch.Tensor:
        a = x + 1
        b = a * 2
        return a + b

    assert peak_activation_bytes(Runner(three), CPU) == 3 * 4096


# ---- the command line -----------------------------------------------------------------------------------------------


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(profile, "WARMUP_NS", 0)
    monkeypatch.setattr(profile, "SAMPLE_NS", 0)


def run(*arguments: object, monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setattr(sys, "argv", ["dna-fast", *map(str, arguments)])
    with pytest.raises(SystemExit) as stop:
        cli.main()
    return int(stop.value.code or 0)


def test_a_run_is_profiled_and_searched_by_latency(quick: None, tmp_path: Path, monkeypatch: Any, capsys: Any) -> None:
    (tmp_path / "small.yaml").write_text(yaml.safe_dump({**CONFIG, "search": {"top": 1}}))
    directory = Run.start(tmp_path / "small.yaml", tmp_path / "run").directory
    command = ("profile", directory, "--rounds", 1, "--validate", 4, "--json")
    assert run(*command, monkeypatch=monkeypatch) == 0
    told = json.loads(capsys.readouterr().out)
    assert [s["implementation"] for s in told["settings"]] == ["torch", "fused"]
    assert all(s["layers"] == len(LAYERS) and s["fit"]["networks"] == 4 for s in told["settings"])
    assert all(s["peak_activation_bytes"][0] > 0 for s in told["settings"])
    found = Profile.load(directory / "profile.json")
    assert {network.space_sha256 for network, _ in found.networks} == {SPACE.sha256}
    table = CostTable.load(directory / "costs.npz")
    assert {"latency_us", "latency_us_b1_float32_fused", "macs"} <= set(table.names)

    assert Run.open(directory).costs().names == table.names  # written anew by other commands, latencies and all

    losses = [np.arange(SPACE.num_candidates(b), dtype=np.float64) for b in range(2)]
    RatingTable.from_losses(SPACE, losses).save(directory / "ratings.npz")
    bound = sorted(table.total(choice)["latency_us"] for choice in ALL)[len(ALL) // 2]
    assert run("search", directory, "--max", f"latency_us={bound}", "--json", monkeypatch=monkeypatch) == 0
    best = json.loads(capsys.readouterr().out)["solutions"][0]
    allowed = [choice for choice in ALL if table.total(choice)["latency_us"] <= bound]
    assert tuple(best["candidates"]) == min(allowed, key=lambda c: (sum(c), c))


def test_an_interrupted_profile_does_not_stop_other_commands(tmp_path: Path) -> None:
    (tmp_path / "small.yaml").write_text(yaml.safe_dump(CONFIG))
    opened = Run.start(tmp_path / "small.yaml", tmp_path / "run")
    Profile({}, {(LAYERS[0], PLAIN): Timing([1.0])}).save(opened.directory / "profile.json")
    assert "latency_us" not in opened.costs().names


def test_a_template_goes_out_and_comes_back(tmp_path: Path, monkeypatch: Any, capsys: Any) -> None:
    space, template = tmp_path / "space.json", tmp_path / "phone.csv"
    space.write_text(json.dumps(SPACE.to_dict()))
    assert run("profile", space, "--template", template, monkeypatch=monkeypatch) == 0
    lines = template.read_text().splitlines()
    template.write_text("\n".join([lines[0], *(f"{line}7.5" for line in lines[1:-1]), lines[-1]]) + "\n")
    back = ("profile", space, "--csv", template, "--out", tmp_path / "p.json", "--costs", tmp_path / "c.npz")
    assert run(*back, monkeypatch=monkeypatch) == 2
    assert f"1 of {len(LAYERS)} layers of small are missing" in capsys.readouterr().err
    assert not (tmp_path / "p.json").exists()
    template.write_text("\n".join([lines[0], *(f"{line}7.5" for line in lines[1:])]) + "\n")
    assert run(*back, monkeypatch=monkeypatch) == 0
    layers = len(architecture_layers(Architecture.from_space(SPACE, ALL[0])))
    total = CostTable.load(tmp_path / "c.npz").total(ALL[0])["latency_us"]
    assert 0 <= total - 7.5 * layers < len(SPACE.blocks)


def test_a_csv_file_does_not_replace_what_was_measured_here(tmp_path: Path, monkeypatch: Any, capsys: Any) -> None:
    space, template, out = tmp_path / "space.json", tmp_path / "phone.csv", tmp_path / "p.json"
    space.write_text(json.dumps(SPACE.to_dict()))
    Profile({"processor": "mine"}, {(LAYERS[0], PLAIN): Timing([1.0])}).save(out)
    before = out.read_bytes()
    assert run("profile", space, "--template", template, monkeypatch=monkeypatch) == 0
    lines = template.read_text().splitlines()
    template.write_text("\n".join([lines[0], *(f"{line}7.5" for line in lines[1:])]) + "\n")
    assert run("profile", space, "--csv", template, "--out", out, monkeypatch=monkeypatch) == 2
    assert "processor is 'mine' there and None here" in capsys.readouterr().err
    assert out.read_bytes() == before


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("digits", "--device", "tpu"), "--device: expected cpu or cuda, got 'tpu'"),
        (("nowhere",), "nowhere"),
        (("digits", "--dtype", "int8", "--implementation", "torch"), "dtype must be one of"),
        (("digits", "--rounds", "0", "--implementation", "torch"), "rounds must be >= 1"),
    ],
    ids=["device", "space", "dtype", "rounds"],
)
def test_commands_that_cannot_be(
    arguments: tuple[str, ...], message: str, tmp_path: Path, monkeypatch: Any, capsys: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run("profile", *arguments, monkeypatch=monkeypatch) == 2
    assert message in capsys.readouterr().err


def test_networks_of_another_space_do_not_enter_a_fit(clock: Clock, tmp_path: Path) -> None:
    found = measure(Plan(SPACE, (PLAIN,), rounds=1), tmp_path / "p.json", CPU, rng(), watch=clock.watch())
    for choice in ALL[:6]:
        found.networks[Network("other", choice), PLAIN] = Timing([1.0])
    assert found.fit(SPACE, PLAIN) is None
