"""The golden example: a space small enough that derive.py works out every answer with plain loops."""

import ast
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from dna_fast.architecture import Architecture
from dna_fast.cost import COSTS, architecture_cost, cost_table
from dna_fast.search import CostSpec, pareto_front, solve
from dna_fast.space import SearchSpace
from dna_fast.tables import RatingTable

HERE = Path(__file__).parent / "golden"
GOLDEN = json.loads((HERE / "golden.json").read_text())


@pytest.fixture(scope="module")
def space():
    return SearchSpace.from_dict(GOLDEN["space"])


@pytest.fixture(scope="module")
def table(space):
    return cost_table(space)


@pytest.fixture(scope="module")
def losses(space):
    return RatingTable.from_losses(space, GOLDEN["losses"]).losses()


@pytest.fixture(scope="module")
def costs(table):
    return {name: CostSpec(table.costs[name], reduce=table.reduce[name]) for name in table.names}


def test_derivation_reproduces_the_file():
    derived = subprocess.run([sys.executable, HERE / "derive.py"], capture_output=True, text=True, check=True).stdout
    assert derived == (HERE / "golden.json").read_text(), (
        "run: python tests/golden/derive.py > tests/golden/golden.json"
    )


def test_derivation_is_independent():
    imports = [
        n for n in ast.walk(ast.parse((HERE / "derive.py").read_text())) if isinstance(n, ast.Import | ast.ImportFrom)
    ]
    names = {alias.name for node in imports for alias in node.names}
    assert names == {"itertools", "json", "math"}


def test_space(space):
    assert space.to_dict() == GOLDEN["space"]
    assert space.num_architectures == GOLDEN["num_architectures"]
    for b, candidates in enumerate(GOLDEN["candidates"]):
        assert space.num_candidates(b) == len(candidates)
        assert [space.candidate(b, i) for i in range(len(candidates))] == [(c, tuple(path)) for c, path in candidates]
        assert [space.candidate_index(b, c, path) for c, path in candidates] == list(range(len(candidates)))
        np.testing.assert_array_equal(space.labels(b), GOLDEN["labels"][b])


@pytest.mark.parametrize("name", COSTS)
def test_cost_table(table, name):
    assert [array.tolist() for array in table.costs[name]] == GOLDEN["costs"][name]


def test_every_architecture(space, table):
    for each in GOLDEN["architectures"]:
        assert table.total(each["choice"]) == each["costs"]
        assert architecture_cost(Architecture.from_space(space, each["choice"])) == each["costs"]


@pytest.mark.parametrize("method", ["auto", "front", "branch_and_bound"])
@pytest.mark.parametrize("case", GOLDEN["searches"], ids=lambda case: json.dumps(case["budgets"]))
def test_search(losses, costs, table, case, method):
    budgets = {name: (lower, upper) for name, (lower, upper) in case["budgets"].items()}
    solution = solve(losses, costs, budgets, labels=table.labels, top_k=3, method=method)
    if not case["top_3"]:
        assert solution.status == "infeasible"
        assert solution.choice is None
        assert solution.smallest_feasible == case["smallest_feasible"]
        return
    assert solution.status == "optimal"
    assert solution.bound == solution.loss
    assert solution.gap == 0
    found = [solution, *solution.alternatives]
    assert [{"choice": list(f.choice), "loss": f.loss, "costs": f.costs} for f in found] == case["top_3"]


@pytest.mark.parametrize("name", ["macs", "activation_bytes"])
def test_front(losses, costs, table, name):
    front = pareto_front(losses, {name: costs[name]}, labels=table.labels)
    expected = GOLDEN[f"front_{name}"]
    assert front.choice.tolist() == [point["choice"] for point in expected]
    assert front.loss.tolist() == [point["loss"] for point in expected]
    assert front.costs[name].tolist() == [point[name] for point in expected]
