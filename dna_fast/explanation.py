"""Why an answer is what it is: which budget binds, what more of it would buy, what is wrong with another choice."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from numpy.typing import ArrayLike

from dna_fast.search import Solution, solve
from dna_fast.search_arrays import Budget, CostSpec, Problem, budget_ends, read_problem


@dataclass(frozen=True)
class BudgetReport:
    """What one budget does to the optimum, the others held; everything proven.

    ``loss`` is the optimum's, ``loss_without`` the least loss without the budget (None: not proven in time), and
    ``binds`` whether that is less. Where the upper end binds, ``next_upper`` is the least upper end that gives a
    smaller loss, and ``next_loss`` that loss: what more of it buys, and how much more it takes.
    """

    name: str
    lower: int | None
    upper: int | None
    total: int
    loss: float
    loss_without: float | None
    binds: bool | None
    next_upper: int | None = None
    next_loss: float | None = None

    @property
    def gain_per_unit(self) -> float | None:
        """Loss saved per unit of cost, up to the next smaller loss."""
        if self.next_upper is None or self.next_loss is None or self.upper is None:
            return None
        return (self.loss - self.next_loss) / (self.next_upper - self.upper)


@dataclass(frozen=True)
class Verdict:
    """What is wrong with a choice: ``behind`` is how much more it loses than the optimum (less than nothing where it
    breaks a budget), ``broken`` the budgets it breaks with how far its total is above the upper end or below the lower.
    """

    choice: tuple[int, ...]
    loss: float
    costs: dict[str, int]
    behind: float | None
    broken: dict[str, int]

    @property
    def fits(self) -> bool:
        return not self.broken


@dataclass(frozen=True)
class Explanation:
    """An answer and its reasons."""

    solution: Solution
    budgets: tuple[BudgetReport, ...]
    verdict: Verdict | None

    def lines(self) -> list[str]:
        """In words, one fact a line."""
        words = [f"{self.solution.status}: loss {self.solution.loss}"]
        for name, smallest in self.solution.smallest_feasible.items():
            helps = "no value of it helps" if smallest is None else f"from {smallest:,} on something fits"
            words.append(f"{name}: the others held, {helps}")
        for report in self.budgets:
            if report.binds is None:
                words.append(f"{report.name}: {report.total:,}; not settled in time")
            elif not report.binds:
                words.append(f"{report.name}: {report.total:,}; does not bind")
            elif report.next_upper is None:
                words.append(
                    f"{report.name}: {report.total:,}; binds, without it the loss would be {report.loss_without}"
                )
            else:
                words.append(
                    f"{report.name}: {report.total:,} of {report.upper:,}; binds, at {report.next_upper:,} the loss would "
                    f"be {report.next_loss}, without it {report.loss_without}"
                )
        if self.verdict is not None:
            words += self._verdict_lines(self.verdict)
        return words

    @staticmethod
    def _verdict_lines(verdict: Verdict) -> list[str]:
        words = [f"{name}: the choice is off by {excess:,}" for name, excess in verdict.broken.items()]
        if verdict.behind is not None:
            relation = "more" if verdict.behind >= 0 else "less"
            words.append(f"the choice loses {verdict.loss}, {abs(verdict.behind)} {relation} than the best that fits")
        return words


def explain(
    losses: Sequence[ArrayLike],
    costs: Mapping[str, Sequence[ArrayLike] | CostSpec],
    budgets: Mapping[str, Budget],
    *,
    labels: Sequence[ArrayLike] | None = None,
    choice: Sequence[int] | None = None,
    allowed: Sequence[ArrayLike | None] | None = None,
    time_limit_s: float | None = None,
) -> Explanation:
    """Solves, and says why the answer is what it is.

    >>> told = explain([[0.4, 0.1], [0.2, 0.0]], {"macs": [[1, 5], [2, 4]]}, {"macs": 7}, choice=[1, 1])
    >>> told.budgets[0].binds, told.budgets[0].next_upper, told.verdict.broken
    (True, 9, {'macs': 2})

    Args:
        losses, costs, budgets, labels: As in ``solve``.
        choice: One candidate index per block: why not this one?
        allowed: As in ``solve``; the choice need not keep to it.
        time_limit_s: For each of the searches (one for the answer, and some dozens per budget that binds).

    Returns:
        An ``Explanation``; its ``budgets`` are empty where nothing fits or the optimum is not proven.

    Raises:
        ValueError, TypeError: As in ``solve``; or a choice that is not one candidate per block.
    """
    problem = read_problem(losses, costs, labels)
    verdict_of = None if choice is None else _checked_choice(problem, choice)

    def optimum(changed: Mapping[str, Budget]) -> Solution:
        return solve(losses, costs, {**budgets, **changed}, labels=labels, allowed=allowed, time_limit_s=time_limit_s)

    solution = optimum({})
    reports: list[BudgetReport] = []
    if solution.status == "optimal":
        reports = [_report(name, budget_ends(name, budget), solution, optimum) for name, budget in budgets.items()]
    verdict = None if verdict_of is None else _verdict(problem, verdict_of, budgets, solution)
    return Explanation(solution, tuple(reports), verdict)


Optimum = Callable[[Mapping[str, Budget]], Solution]


def _report(name: str, ends: tuple[int | None, int | None], solution: Solution, optimum: Optimum) -> BudgetReport:
    lower, upper = ends
    assert solution.loss is not None
    assert solution.costs is not None
    total = solution.costs[name]
    without = optimum({name: (None, None)})
    if without.status != "optimal" or without.loss is None:
        return BudgetReport(name, lower, upper, total, solution.loss, None, None)
    binds = without.loss < solution.loss
    report = BudgetReport(name, lower, upper, total, solution.loss, without.loss, binds)
    if not binds or upper is None:
        return report
    more = optimum({name: (lower, None)})
    if more.status != "optimal" or more.loss is None or more.costs is None or more.loss >= solution.loss:
        return report
    # Between `short`, where the loss is the optimum's, and `enough`, where it is less: halves what is between.
    short, enough, loss = upper, more.costs[name], more.loss
    while short + 1 < enough:
        middle = optimum({name: (lower, (short + enough) // 2)})
        if middle.status != "optimal" or middle.loss is None or middle.costs is None:
            return report
        if middle.loss < solution.loss:
            enough, loss = middle.costs[name], middle.loss
        else:
            short = (short + enough) // 2
    return replace(report, next_upper=enough, next_loss=loss)


def _checked_choice(problem: Problem, choice: Sequence[int]) -> tuple[int, ...]:
    if len(choice) != len(problem.losses):
        raise ValueError(f"choice must hold one candidate per block ({len(problem.losses)}), got {len(choice)}")
    for block, (candidate, losses) in enumerate(zip(choice, problem.losses, strict=True)):
        if not 0 <= candidate < losses.shape[-1]:
            raise ValueError(
                f"choice of block {block} must be 0 to {losses.shape[-1] - 1}, one of its candidates, got {candidate}"
            )
    return tuple(int(candidate) for candidate in choice)


def _verdict(problem: Problem, choice: tuple[int, ...], budgets: Mapping[str, Budget], solution: Solution) -> Verdict:
    entries = problem.entries(choice)
    loss = 0.0
    for array, (row, candidate) in zip(problem.losses, entries, strict=True):
        loss += float(array[row, candidate] if array.ndim == 2 else array[candidate])
    totals = {}
    for name, (reduce, arrays) in problem.costs.items():
        values = [int(a[row, i] if a.ndim == 2 else a[i]) for a, (row, i) in zip(arrays, entries, strict=True)]
        totals[name] = sum(values) if reduce == "sum" else max(values)
    broken = {}
    for name, budget in budgets.items():
        lower, upper = budget_ends(name, budget)
        if upper is not None and totals[name] > upper:
            broken[name] = totals[name] - upper
        elif lower is not None and totals[name] < lower:
            broken[name] = totals[name] - lower
    behind = None if solution.loss is None else loss - solution.loss
    return Verdict(choice, loss, totals, behind, broken)
