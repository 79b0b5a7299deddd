"""Who made a run's files: versions, revision, device and command of every stage, in `provenance.json`."""

from __future__ import annotations

import datetime
import platform
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from dna_fast import __version__
from dna_fast._files import read_json, write_json
from dna_fast.about import dali_version, version

FILE = "provenance.json"
SOURCE = Path(__file__).resolve().parent


def stage_record(directory: Path, stage: str, device: str) -> Callable[[bool], None]:
    """Begins a stage's record.

    Args:
        directory: of the run.
        stage: its key in the file.
        device: where it computes, in words.

    Returns:
        To be called when the stage is done, with whether it did anything: a stage that found its work done keeps its record.
    """
    started, clock = datetime.datetime.now(datetime.timezone.utc), time.perf_counter()

    def finish(worked: bool) -> None:
        records = read_records(directory)
        if not worked and stage in records:
            return
        records[stage] = {
            "dna_fast": __version__,
            "revision": revision(),
            "python": platform.python_version(),
            "torch": version("torch"),
            "timm": version("timm"),
            "dali": dali_version(),
            "device": device,
            "command": ["dna-fast", *sys.argv[1:]],
            "started": started.isoformat(timespec="seconds"),
            "seconds": round(time.perf_counter() - clock, 3),
        }
        write_json(directory / FILE, records)

    return finish


def read_records(directory: Path) -> dict[str, Any]:
    """Stage -> its record; empty where there is no file yet.

    Raises:
        ValueError: a damaged file.
    """
    path = directory / FILE
    if not path.exists():
        return {}
    records = read_json(path)
    if not isinstance(records, dict):
        raise ValueError(f"{path}: damaged, expected a record per stage, got {str(records)[:40]!r}; delete it")
    return records


def revision() -> str | None:
    """The checkout's commit, "-dirty" where files differ from it; None for an installed package."""
    try:
        _git("ls-files", "--error-unmatch", __file__)  # the checkout could be somebody else's, with the package inside
        return _git("describe", "--always", "--dirty", "--abbrev=40", "--exclude=*")
    except (OSError, subprocess.SubprocessError):
        return None


def _git(*arguments: str) -> str:
    done = subprocess.run(["git", *arguments], cwd=SOURCE, capture_output=True, text=True, timeout=10, check=True)
    return done.stdout.strip()
