"""Results on disk: pytest-benchmark's record, stripped to what a reader needs, one small JSON file per benchmark and day.

`python -m benchmarks.results .benchmarks/last.json` writes benchmarks/results/<what>-<date>.json for every bench_<what>.py in it.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

FORMAT = "dna_fast benchmark 1"
FOLDER = Path(__file__).with_name("results")
QUANTILES = ("min", "q1", "median", "q3", "max")


@dataclass(frozen=True)
class Entry:
    """One contestant of a race."""

    fields: dict[str, Any]  # who: way, dtype, allocator, ...; and what its check reported
    seconds: dict[str, float]  # QUANTILES, and the number of rounds

    @property
    def median_s(self) -> float:
        return self.seconds["median"]


@dataclass(frozen=True)
class Race:
    """Contestants that did the same work in the same run."""

    name: str
    facts: dict[str, Any]  # what the work was, and roofs measured beside it
    entries: tuple[Entry, ...]


@dataclass(frozen=True)
class Result:
    """One file."""

    what: str
    tier: str  # quick or full
    date: str
    revision: str
    modified: bool  # whether the tree differed from that revision
    machine: dict[str, str]
    races: tuple[Race, ...]

    @property
    def file_name(self) -> str:
        return f"{self.what}-{self.date}.json"


def from_pytest_benchmark(raw: Mapping[str, Any]) -> list[Result]:
    """pytest-benchmark's record (--benchmark-json) -> one result per bench_<what>.py, in the order of the record.

    A benchmark's group is its race. What it puts into extra_info["race"] describes the race, extra_info["entry"] the contestant;
    a benchmark that puts neither there has its test's parameters as the contestant's fields and extra_info as the race's.
    """
    files: dict[str, dict[str, list[Mapping[str, Any]]]] = {}
    for benchmark in raw["benchmarks"]:
        what = Path(benchmark["fullname"].partition("::")[0]).stem.removeprefix("bench_")
        group = benchmark["group"] or benchmark["name"]
        files.setdefault(what, {}).setdefault(group, []).append(benchmark)
    commit = raw["commit_info"]
    return [
        Result(
            what,
            raw.get("tier", "full"),
            raw["datetime"][:10],
            commit["id"],
            bool(commit["dirty"]),
            dict(raw["machine_info"]),
            tuple(_race(name, group) for name, group in groups.items()),
        )
        for what, groups in files.items()
    ]


def _race(name: str, benchmarks: Sequence[Mapping[str, Any]]) -> Race:
    facts: dict[str, Any] = {}
    entries = []
    for benchmark in benchmarks:
        extra = benchmark["extra_info"]
        plain = "entry" not in extra
        facts |= extra if plain else extra["race"]
        stats = benchmark["stats"]
        seconds = {key: _short(stats[key]) for key in QUANTILES} | {"rounds": stats["rounds"]}
        entries.append(Entry(dict((benchmark["params"] or {}) if plain else extra["entry"]), seconds))
    return Race(name, facts, tuple(entries))


def _short(seconds: float) -> float:
    return float(f"{seconds:.5g}")  # more digits than any clock here deserves


def to_json(result: Result) -> str:
    """One line per contestant, so that files stay small and their differences readable."""
    head = {"format": FORMAT} | {
        key: getattr(result, key) for key in ("what", "tier", "date", "revision", "modified", "machine")
    }
    races = []
    for race in result.races:
        entries = ",\n".join("    " + json.dumps(entry.fields | {"seconds": entry.seconds}) for entry in race.entries)
        facts = json.dumps({"name": race.name} | race.facts)[:-1]
        races.append(f'  {facts}, "entries": [\n{entries}\n  ]}}')
    return json.dumps(head, indent=1)[:-2] + ',\n "races": [\n' + ",\n".join(races) + "\n ]\n}\n"


def read(path: Path) -> Result:
    """A result file.

    Raises:
        ValueError: a file of another format.
    """
    data = json.loads(path.read_text(encoding="utf-8"))
    if data.get("format") != FORMAT:
        raise ValueError(f"{path}: expected format {FORMAT!r}, got {data.get('format')!r}")
    races = []
    for race in data.pop("races"):
        entries = [Entry({k: v for k, v in e.items() if k != "seconds"}, e["seconds"]) for e in race.pop("entries")]
        races.append(Race(race.pop("name"), race, tuple(entries)))
    del data["format"]
    return Result(**data, races=tuple(races))


def latest(folder: Path = FOLDER) -> Iterator[Result]:
    """The newest result of each kind, full ones before quick ones; files of other formats are left out."""
    best: dict[str, Result] = {}
    for path in sorted(folder.glob("*.json")):
        if json.loads(path.read_text(encoding="utf-8")).get("format") != FORMAT:
            continue
        result = read(path)
        if result.what not in best or _worth(result) >= _worth(best[result.what]):
            best[result.what] = result
    return iter(best.values())


def _worth(result: Result) -> tuple[bool, str]:
    return result.tier == "full", result.date


def save(results: Sequence[Result], folder: Path = FOLDER) -> list[Path]:
    """Writes one file per result.

    Raises:
        ValueError: a quick result would replace a full one; nothing has been written then.
    """
    paths = [folder / result.file_name for result in results]
    for path, result in zip(paths, results, strict=True):
        if path.exists() and result.tier == "quick" and read(path).tier == "full":
            raise ValueError(
                f"{path}: expected a full result in place of this full one, got a quick one; delete it first"
            )
    for path, result in zip(paths, results, strict=True):
        path.write_text(to_json(result), encoding="utf-8")
    return paths


def main(arguments: Sequence[str]) -> None:
    """Splits and strips a record of pytest-benchmark."""
    (source,) = arguments
    for path in save(from_pytest_benchmark(json.loads(Path(source).read_text(encoding="utf-8")))):
        print(path)


if __name__ == "__main__":
    main(sys.argv[1:])
