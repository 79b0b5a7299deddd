"""Block-wise distillation architecture search: train, rate and search every path of a space, exactly and fast.

Importing this package loads nothing but itself: each public name is fetched from its module on first use. So reading a
table needs no compiled code, and searching one needs no torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dna_fast.architecture import Architecture, from_zoo
    from dna_fast.cost import architecture_cost, cost_table
    from dna_fast.explanation import Explanation, explain
    from dna_fast.search import Alternative, CostSpec, Front, Solution, pareto_front, solve, solve_many
    from dna_fast.space import SearchSpace, preset
    from dna_fast.tables import CostTable, RatingTable

__version__ = "0.1.0"

__all__ = [
    "Alternative",
    "Architecture",
    "CostSpec",
    "CostTable",
    "Explanation",
    "Front",
    "RatingTable",
    "SearchSpace",
    "Solution",
    "__version__",
    "architecture_cost",
    "cost_table",
    "explain",
    "from_zoo",
    "pareto_front",
    "preset",
    "solve",
    "solve_many",
]

_HOMES = {
    "Alternative": "search",
    "Architecture": "architecture",
    "CostSpec": "search",
    "CostTable": "tables",
    "Explanation": "explanation",
    "Front": "search",
    "RatingTable": "tables",
    "SearchSpace": "space",
    "Solution": "search",
    "architecture_cost": "cost",
    "cost_table": "cost",
    "explain": "explanation",
    "from_zoo": "architecture",
    "pareto_front": "search",
    "preset": "space",
    "solve": "search",
    "solve_many": "search",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    globals()[name] = value  # the next use finds it without coming here
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
