"""Runs a race in a process of its own, and remembers its result, so that an interrupted session can be continued.

A process of its own, because a tuned allocator cannot be untuned, and because compiled layers and their memory go with it.
"""

from __future__ import annotations

import hashlib
import importlib
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
JOURNAL = ROOT / ".benchmarks" / "races.jsonl"


class Races:
    """Races of one session.

    Args:
        identity: what results depend on besides the request: revision, build, machine.
        journal: file that every finished race is appended to at once.
        resume: take races from the journal that ran under the same identity; otherwise the journal starts anew.
    """

    def __init__(self, identity: str, journal: Path = JOURNAL, *, resume: bool = False) -> None:
        self.identity, self.journal = identity, journal
        self.done: dict[str, dict[str, Any]] = {}
        self.failed: dict[str, str] = {}
        if resume and journal.exists():
            for line in journal.read_text(encoding="utf-8").splitlines():
                try:
                    record = json.loads(line)
                except json.JSONDecodeError:
                    continue  # the last line of a session that was killed while it wrote
                self.done[record["key"]] = record["answer"]
        elif journal.exists():
            journal.unlink()

    def run(self, module: str, request: dict[str, Any], *, timeout_s: float = 3600) -> dict[str, Any]:
        """The answer of `benchmarks.races.<module>` to a request, both JSON; each request runs once per session.

        Raises:
            RuntimeError: the process failed, and the message ends with what it wrote last; or it took longer than `timeout_s`.
        """
        key = hashlib.sha256(json.dumps([self.identity, module, request], sort_keys=True).encode()).hexdigest()
        if key in self.failed:
            raise RuntimeError(self.failed[key])
        if key not in self.done:
            try:
                answer = _in_own_process(module, request, timeout_s)
            except RuntimeError as error:
                self.failed[key] = str(error)
                raise
            self.journal.parent.mkdir(parents=True, exist_ok=True)
            with open(self.journal, "a", encoding="utf-8") as file:
                file.write(json.dumps({"key": key, "answer": answer}) + "\n")
            self.done[key] = answer
        return self.done[key]


def _in_own_process(module: str, request: dict[str, Any], timeout_s: float) -> dict[str, Any]:
    command = [sys.executable, "-m", "benchmarks.worker", module]
    path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
    try:
        done = subprocess.run(
            command,
            input=json.dumps(request),
            capture_output=True,
            text=True,
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": path},
            timeout=timeout_s,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise RuntimeError(f"race {module} {request}: not done after {timeout_s} s") from error
    if done.returncode != 0:
        raise RuntimeError(
            f"race {module} {request}: exit status {done.returncode}; it ended with\n{done.stderr[-3000:]}"
        )
    answer: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return answer


def main(arguments: Sequence[str]) -> None:
    """Answers the request on standard input with `main(request)` of the race named."""
    (name,) = arguments
    race = importlib.import_module(f"benchmarks.races.{name}")
    print(json.dumps(race.main(json.load(sys.stdin))))


if __name__ == "__main__":
    main(sys.argv[1:])
