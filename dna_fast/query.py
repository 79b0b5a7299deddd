"""Questions to the tables: which architectures are best under these budgets, and what do the best ones for every budget look like."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dna_fast._files import read_json, write_json
from dna_fast._names import nearest
from dna_fast.architecture import Architecture
from dna_fast.config import resolve_quantity
from dna_fast.cost import cost_table
from dna_fast.explanation import Explanation, explain
from dna_fast.restrictions import masks, rules_in_words
from dna_fast.search import Alternative, CostSpec, Front, Solution, pareto_front, solve
from dna_fast.space import SearchSpace
from dna_fast.tables import CostTable, RatingTable

if TYPE_CHECKING:
    from dna_fast.display import Display
    from dna_fast.pipeline import Run


@dataclass(frozen=True)
class Query:
    """What is asked of a pair of tables.

    Args:
        ratings, costs: of the same space.
        bounds: cost name -> (lower, upper), inclusive; None: unbounded on that side.
        metric: the rating to minimise; None: the table's own.
        top: how many of the best.
        teacher_macs: what a bound such as "teacher/3" refers to.
        fix, forbid: rules about candidates, cells and operators (see `restrictions`).
        min_differences: in at least how many blocks every two of the best differ.

    Raises:
        ValueError: tables of different spaces, or a rule that cannot be.
    """

    ratings: RatingTable
    costs: CostTable
    bounds: Mapping[str, tuple[int | None, int | None]] = field(default_factory=dict)
    metric: str | None = None
    top: int = 5
    teacher_macs: int | None = None
    fix: tuple[str, ...] = ()
    forbid: tuple[str, ...] = ()
    min_differences: int = 1

    def __post_init__(self) -> None:
        if self.ratings.space != self.costs.space:
            raise ValueError(
                f"search: ratings are of space {self.ratings.space.name!r} ({self.ratings.space.sha256[:12]}), costs of "
                f"{self.costs.space.name!r} ({self.costs.space.sha256[:12]}); both tables must come from one space"
            )
        masks(self.ratings.space, self.fix, self.forbid)

    @classmethod
    def of_files(cls, ratings: Path | None, costs: Path | None) -> Query:
        """Tables from files; without a cost table, the exact costs of the ratings' space."""
        if ratings is None:
            raise ValueError("search: give a run directory, or --ratings FILE (and --costs FILE)")
        table = RatingTable.load(ratings)
        return cls(table, cost_table(table.space) if costs is None else CostTable.load(costs))

    @classmethod
    def of_run(cls, run: Run) -> Query:
        """The tables and bounds of a run; its cost table is written if it is not there."""
        ratings, costs = run.directory / "ratings.npz", run.directory / "costs.npz"
        if not ratings.exists():
            raise ValueError(f"{ratings}: not rated yet; run: dna-fast rate {run.directory}")
        table = CostTable.load(costs) if costs.exists() else run.costs()
        wanted = run.config.search
        query = cls(RatingTable.load(ratings), table, top=wanted.top, teacher_macs=run.teacher_macs)
        return query.bounded({n: str(v) for n, v in wanted.max.items()}, {n: str(v) for n, v in wanted.min.items()})

    def as_answered(self, directory: Path) -> Query:
        """The query as the search asked it whose answer lies in `directory`; earlier releases wrote no rules."""
        asked = read_json(directory / "search.json")
        bounds = {name: (lower, upper) for name, (lower, upper) in asked["bounds"].items()}
        query = replace(self, bounds=bounds, metric=asked["metric"])
        return query.ruled(asked.get("fix", ()), asked.get("forbid", ()), asked.get("min_differences", 1))

    def asking(self, maximum: Sequence[str], minimum: Sequence[str], metric: str | None, top: int | None) -> Query:
        """The query with command-line bounds such as "macs=460M" in place of its own, if any are given."""
        if top is not None and top < 1:
            raise ValueError(f"search: --top must be at least 1, got {top}; 1 asks for the best alone")
        upper, lower = _split_all("--max", maximum), _split_all("--min", minimum)
        query = self.bounded(upper, lower) if upper or lower else self
        return replace(query, metric=metric, top=self.top if top is None else top)

    def ruled(self, fix: Sequence[str], forbid: Sequence[str], min_differences: int) -> Query:
        """The query with rules about candidates, and with how many blocks the best must differ in."""
        if not 1 <= min_differences <= (blocks := len(self.ratings.space.blocks)):
            raise ValueError(f"search: --apart must be 1 to {blocks}, the number of blocks, got {min_differences}")
        return replace(self, fix=tuple(fix), forbid=tuple(forbid), min_differences=min_differences)

    def bounded(self, upper: Mapping[str, str], lower: Mapping[str, str]) -> Query:
        """The query with other bounds; quantities as text.

        Raises:
            ValueError: an unknown cost (the nearest is named), or not a quantity.
        """
        bounds: dict[str, tuple[int | None, int | None]] = {}
        for name in {**upper, **lower}:
            if name not in self.costs.names:
                near = nearest(name, self.costs.names)[0]
                raise ValueError(
                    f"search: no cost {name!r}; did you mean {near!r}? The table has {', '.join(self.costs.names)}"
                )
            bounds[name] = (self._quantity(name, lower.get(name)), self._quantity(name, upper.get(name)))
        return replace(self, bounds=bounds)

    def _quantity(self, name: str, text: str | None) -> int | None:
        if text is None:
            return None
        try:
            if name != "macs" and text.strip().startswith("teacher"):
                raise ValueError(
                    f"{text!r} is a share of the teacher's macs, and no other cost of it is known; give a number"
                )
            return resolve_quantity(text, self.teacher_macs if name == "macs" else None)
        except ValueError as error:
            raise ValueError(f"search: bound of {name}: {error}") from error

    def specs(self, names: Iterable[str]) -> dict[str, CostSpec]:
        """The named costs as the solver takes them."""
        return {name: CostSpec(self.costs.costs[name], reduce=self.costs.reduce[name]) for name in names}  # type: ignore[arg-type]

    def loss(self, choice: Sequence[int]) -> float:
        """Summed rating of one candidate per block, in block order."""
        return float(sum(block[index] for block, index in zip(self.ratings.losses(self.metric), choice, strict=True)))

    def solve(self) -> Solution:
        """The best architectures under the bounds, exactly."""
        costs = self.specs(self.costs.names)
        return solve(
            self.ratings.losses(self.metric),
            costs,
            dict(self.bounds),
            labels=self.costs.labels,
            top_k=self.top,
            min_differences=self.min_differences,
            standard_errors=self.ratings.standard_errors(self.metric),
            allowed=masks(self.ratings.space, self.fix, self.forbid),
        )

    def front(self, *names: str) -> Front:
        """The complete exact front of the rating against the named costs, among the candidates that the rules leave."""
        return pareto_front(
            self.ratings.losses(self.metric),
            self.specs(names),
            labels=self.costs.labels,
            allowed=masks(self.ratings.space, self.fix, self.forbid),
        )

    def explain(self) -> Explanation:
        """Which budget binds, and what the next unit of it would buy, among the candidates that the rules leave."""
        return explain(
            self.ratings.losses(self.metric),
            self.specs(self.bounds),
            dict(self.bounds),
            labels=self.costs.labels,
            allowed=masks(self.ratings.space, self.fix, self.forbid),
        )


@dataclass(frozen=True)
class Found:
    """One architecture of an answer."""

    loss: float
    costs: Mapping[str, int]
    candidates: tuple[int, ...]
    blocks: tuple[str, ...]  # `in_words`
    indistinguishable: bool | None = None  # from the best, by the ratings' standard errors; None: they are not known


@dataclass(frozen=True)
class Answer:
    """What a search found; the first solution is the best."""

    status: str
    metric: str
    bounds: Mapping[str, tuple[int | None, int | None]]
    solutions: tuple[Found, ...]
    bound: float
    gap: float
    smallest_feasible: Mapping[str, int | None]
    stats: Mapping[str, Any]
    fix: tuple[str, ...] = ()
    forbid: tuple[str, ...] = ()
    min_differences: int = 1

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON, which knows no infinity: where nothing was found, bound and gap are null."""
        finite = {
            name: value if math.isfinite(value) else None for name, value in (("bound", self.bound), ("gap", self.gap))
        }
        return {**asdict(self), **finite}


def answer(query: Query) -> Answer:
    """Solves a query and puts the result in words of its space."""
    solution = query.solve()
    found = list(solution.alternatives)
    if solution.choice is not None and solution.loss is not None and solution.costs is not None:
        found.insert(0, Alternative(solution.loss, solution.costs, solution.choice))
    return Answer(
        status=solution.status,
        metric=query.metric or query.ratings.metric,
        bounds=query.bounds,
        solutions=tuple(_describe(query, each) for each in found),
        bound=solution.bound,
        gap=solution.gap,
        smallest_feasible=solution.smallest_feasible,
        stats=solution.stats,
        fix=query.fix,
        forbid=query.forbid,
        min_differences=query.min_differences,
    )


def write_answer(query: Query, found: Answer, directory: Path) -> Architecture | None:
    """Writes `search.json`, and the winner to `architecture.json`; returns the winner.

    Where there is none, an `architecture.json` of an earlier search is removed: it answers another question.
    """
    write_json(directory / "search.json", found.to_dict())
    if not found.solutions:
        (directory / "architecture.json").unlink(missing_ok=True)
        return None
    arch = Architecture.from_space(
        query.ratings.space, found.solutions[0].candidates, f"{query.ratings.space.name}_best"
    )
    arch.save(directory / "architecture.json")
    return arch


def print_answer(found: Answer, display: Display) -> None:
    """A table of the solutions, or what would have to give for there to be one."""
    budgets = "; ".join(_bound_words(name, *bounds) for name, bounds in found.bounds.items()) or "no budget"
    rules = rules_in_words(found.fix, found.forbid, found.min_differences)
    display.say("; ".join([f"{found.status}: {found.metric} under {budgets}", *rules]))
    if found.solutions:
        names = sorted({"macs", "params", *found.bounds} & set(found.solutions[0].costs))
        rows = [
            (str(rank), f"{s.loss:.6f}", *(f"{s.costs[name]:,}" for name in names), " | ".join(s.blocks))
            for rank, s in enumerate(found.solutions, start=1)
        ]
        display.table(("#", found.metric, *names, "layers x width, operator per layer; block by block"), rows)
        if close := [str(rank) for rank, s in enumerate(found.solutions, start=1) if s.indistinguishable]:
            display.say(f"within the ratings' standard errors of the first: number {', '.join(close)}")
        display.say(f"proven lower bound {found.bound:.6f}, gap {found.gap:.2%}; {1e3 * found.stats['time_s']:.1f} ms")
    for name, smallest in found.smallest_feasible.items():
        words = "no value helps" if smallest is None else f"the smallest feasible bound is {smallest:,}"
        display.say(f"  {name}, the other budgets held: {words}")


def in_words(space: SearchSpace, choice: Sequence[int]) -> tuple[str, ...]:
    """Per block, for people: "3x24 041", layers x width and the operators."""
    blocks = []
    for b, index in enumerate(choice):
        cell, path = space.candidate(b, index)
        shape = space.blocks[b].cells[cell]
        blocks.append(f"{shape.depth}x{shape.width} {''.join(map(str, path))}")
    return tuple(blocks)


def _describe(query: Query, found: Alternative) -> Found:
    blocks = in_words(query.ratings.space, found.choice)
    return Found(found.loss, found.costs, found.choice, blocks, found.indistinguishable)


def _split_all(flag: str, texts: Sequence[str]) -> dict[str, str]:
    bounds: dict[str, str] = {}
    for text in texts:
        name, bound = _split(flag, text)
        if name in bounds:
            raise ValueError(f"search: {flag} gives {name} twice ({bounds[name]} and {bound}); give one bound")
        bounds[name] = bound
    return bounds


def _split(flag: str, text: str) -> tuple[str, str]:
    name, equals, bound = text.partition("=")
    if not (name and equals and bound):
        raise ValueError(f"search: {flag} expects COST=BOUND such as macs=460M, got {text!r}")
    return name.strip(), bound.strip()


def _bound_words(name: str, lower: int | None, upper: int | None) -> str:
    left = f"{lower:,} <= " if lower is not None else ""
    right = f" <= {upper:,}" if upper is not None else ""
    return f"{left}{name}{right}"
