"""A compiled teacher: the same features up to rounding, fused layers in its graphs, compiled once, refused in words."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import pytest
import torch
import torch._dynamo
from efficientnets import LAYERS, SIZE, small_net
from torch import Tensor, nn
from torch._dynamo.utils import counters
from toy import ToyLoader, toy_supernet, toy_teacher

from dna_fast.config import ConfigError, TeacherConfig, TrainConfig
from dna_fast.placement import Placement
from dna_fast.teacher import Teacher
from dna_fast.teacher_compiled import CompiledTeacher
from dna_fast.teacher_fused import ERROR_RATIO
from dna_fast.train import Problem, Trainer
from dna_fast.train_ranks import RankTrainer

CUTS = ("blocks.1", "blocks.2.0", "blocks.3")
COMPILE = torch.compile


@pytest.fixture(autouse=True)
def fresh_graphs() -> Iterator[None]:
    torch._dynamo.reset()
    counters.clear()
    yield
    torch._dynamo.reset()


@pytest.fixture
def without_inductor(monkeypatch: pytest.MonkeyPatch) -> list[list[Any]]:
    """The same graphs, run operator by operator: what is traced is seen without waiting for a compiler. One list of calls per graph."""
    graphs: list[list[Any]] = []

    def backend(graph: torch.fx.GraphModule, inputs: list[Tensor]) -> Callable[..., Any]:
        graphs.append([node.target for node in graph.graph.nodes if node.op == "call_function"])
        return graph.forward

    def compile_(module: nn.Module, *, mode: str | None, **options: Any) -> Any:
        return COMPILE(module, backend=backend, **options)

    monkeypatch.setattr(torch, "compile", compile_)
    return graphs


def teacher_of(model: nn.Module, fused: bool = True) -> Teacher:
    return Teacher(model, CUTS, input_size=SIZE, fused=fused)


def images(count: int = 4, seed: int = 1) -> Tensor:
    return torch.randn(count, *SIZE, generator=torch.Generator().manual_seed(seed))


def test_a_graph_per_block_holds_every_fused_layer_and_is_made_once(without_inductor: list[list[Any]]) -> None:
    teacher = teacher_of(small_net())
    compiled = CompiledTeacher(teacher)
    for step in range(4):
        x = images(seed=step).contiguous(memory_format=torch.channels_last)
        for got, expected in zip(compiled(x), teacher(x), strict=True):
            assert torch.equal(got, expected)
    assert len(without_inductor) == len(CUTS)
    assert counters["stats"]["unique_graphs"] == len(CUTS)
    assert not counters["graph_break"]
    calls = [str(call) for graph in without_inductor for call in graph]
    assert len([call for call in calls if call == "dna_fast.mbconv"]) == len(LAYERS)


def test_a_batch_of_another_size_runs_as_in_the_teacher_and_compiles_nothing(
    without_inductor: list[list[Any]],
) -> None:
    teacher = teacher_of(small_net())
    compiled = CompiledTeacher(teacher)
    compiled(images())
    x = images(3)
    assert all(torch.equal(*pair) for pair in zip(compiled(x), teacher(x), strict=True))
    assert len(without_inductor) == len(CUTS)


def test_bfloat16_is_fused_too(without_inductor: list[list[Any]]) -> None:
    teacher = teacher_of(small_net())
    x = images().contiguous(memory_format=torch.channels_last)
    with torch.autocast("cpu", torch.bfloat16):
        pairs = list(zip(CompiledTeacher(teacher)(x), teacher(x), strict=True))
    assert all(torch.equal(*pair) and pair[0].dtype == torch.bfloat16 for pair in pairs)


def test_training_takes_the_same_steps(without_inductor: list[list[Any]]) -> None:
    config = TrainConfig(epochs=1, batch_size=16, bn_group=8, learning_rates=(0.01,), reference_batch=16)
    losses = []
    for is_compiled in (False, True):
        problem = Problem(toy_supernet(), toy_teacher(), config, seed=0, compile_teacher=is_compiled)
        losses.append(Trainer(problem).run(ToyLoader([16] * 3, seed=4, shuffled=True))[0]["losses"])
    assert losses[1] == losses[0]
    assert len(without_inductor) == 2


def test_stages_of_blocks_are_refused() -> None:
    config = TrainConfig(epochs=1, batch_size=16, bn_group=8, learning_rates=(0.01,))
    problem = Problem(toy_supernet(), toy_teacher(), config, seed=0, compile_teacher=True)
    world: Any = None  # is not come to
    with pytest.raises(
        ValueError, match=r"teacher\.compile: .* got stages of blocks \(1\+1x1\); take train\.placement=data"
    ):
        RankTrainer(problem, world, Placement.of([1, 1], 1))


def test_statistics_of_batches_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"teacher\.compile: needs teacher\.bn: eval, got batch"):
        TeacherConfig(compile=True, bn="batch")
    with pytest.raises(ValueError, match=r"teacher\.compile: needs teacher\.bn: eval, got batch"):
        CompiledTeacher(Teacher(small_net(), CUTS, input_size=SIZE, bn="batch"))


class Jumps(nn.Module):
    """The second part reads the image, too: no chain of modules."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.second(self.first(x) + x.mean())
        return y


def test_a_teacher_that_is_no_chain_is_refused() -> None:
    teacher = Teacher(Jumps().eval(), ("first", "second"), input_size=SIZE)
    with pytest.raises(ValueError, match=r"teacher\.compile: the teacher cannot be run block by block: .*to false"):
        CompiledTeacher(teacher)


def test_a_missing_compiler_is_said_in_words(monkeypatch: pytest.MonkeyPatch) -> None:
    def backend(*_: Any) -> Any:
        raise OSError("no working C++ compiler")

    monkeypatch.setattr(torch, "compile", lambda module, *, mode, **rest: COMPILE(module, backend=backend, **rest))
    compiled = CompiledTeacher(teacher_of(small_net()))
    with pytest.raises(RuntimeError, match=r"(?s)teacher\.compile: torch\.compile failed .*C\+\+ compiler.*to false"):
        compiled(images())


@pytest.mark.slow
@pytest.mark.parametrize("fused", [True, False], ids=["fused", "plain"])
def test_inductors_features_are_the_same_up_to_rounding(fused: bool) -> None:
    """Both against float64; the bound is that of a fused layer, whose sums are as long and in another order, too."""
    model = small_net()
    exact = teacher_of(copy.deepcopy(model).double(), fused=False)
    plain, teacher = teacher_of(copy.deepcopy(model), fused=False), teacher_of(model, fused)
    compiled = CompiledTeacher(teacher)
    for step in range(2):
        x = images(seed=step).contiguous(memory_format=torch.channels_last)
        for got, own, expected in zip(compiled(x), plain(x), exact(x.double()), strict=True):
            error = partial(torch.dist, expected)
            assert error(got.double()) <= ERROR_RATIO * error(own.double())
            assert got.is_contiguous(memory_format=torch.channels_last)
    assert counters["stats"]["unique_graphs"] == len(CUTS)
