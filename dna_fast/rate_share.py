"""Shares of a rating: which rank rates which paths, so that all have about the same to do."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

Unit = tuple[int, int, int]  # the paths of a (block, cell) that begin with an operator: what is stored at once


@dataclass(frozen=True)
class Share:
    """One rank's view of a rating that several share. No bit of the table depends on the shares.

    Args:
        rank, size: of this process, and how many there are.
        told: what the first rank says, on all of them.
        meet: returns when all ranks have called it.
        count: adds to a number all ranks share, by its name; returns the sum.
    """

    rank: int
    size: int
    told: Callable[[Any], Any]
    meet: Callable[[], None]
    count: Callable[[str, int], int]

    def of(self, work: Mapping[Unit, float]) -> set[Unit]:
        """This rank's units of the work that is left, as the first rank sees it: a fast rank may have stored more by now."""
        left = [tuple(unit) for unit in self.told(sorted(work))]
        return set(balanced({unit: work.get(unit, 0.0) for unit in left}, self.size)[self.rank])


def balanced(work: Mapping[Unit, float], ranks: int) -> list[list[Unit]]:
    """Units by rank: the largest first, each to the rank that has least to do (at most 4/3 of the best possible, Graham 1969)."""
    shares: list[list[Unit]] = [[] for _ in range(ranks)]
    loads = [0.0] * ranks
    for unit in sorted(work, key=lambda u: (-work[u], u)):
        least = min(range(ranks), key=lambda rank: loads[rank])
        shares[least].append(unit)
        loads[least] += work[unit]
    return shares
