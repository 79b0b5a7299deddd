"""A process that has imported everything and forks: tests that kill processes by the dozen pay for imports once.

Nothing of torch, DALI or OpenMP runs in it but imports, so what it forks is as good as a fresh process. `Zygote.start` gives the
number of a child that works on; whoever kills it then asks the zygote, its parent, how it ended.
"""

from __future__ import annotations

import atexit
import functools
import importlib
import json
import os
import signal
import subprocess
import sys
import traceback
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
PRELOADED = (
    "dna_fast.cli",
    "dna_fast.demo",
    "dna_fast.images",
    "dna_fast.pipeline",
    "dna_fast.pipeline_ranks",
    "dna_fast.rate",
    "dna_fast.retrain_inherited",
    "dna_fast.export",
    "dna_fast.train",
    "nvidia.dali.fn",
    "sklearn.datasets",
    "scipy.stats",
)


@dataclass(frozen=True)
class Ended:
    """How a child ended, and what it said on both its outputs."""

    code: int  # as of subprocess: minus the number of the signal that killed it
    said: str

    @property
    def killed(self) -> bool:
        return self.code == -signal.SIGKILL


class Zygote:
    """Talks to the process."""

    def __init__(self) -> None:
        path = os.pathsep.join([str(ROOT), str(ROOT / "tests"), *filter(None, [os.environ.get("PYTHONPATH")])])
        # One thread: OpenMP's own do not live through a fork, and bits must not depend on how many cores are idle.
        env = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1", "COLUMNS": "200"}
        self.process = subprocess.Popen(
            [sys.executable, "-c", "import zygote; zygote.serve()"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=env,
            text=True,
        )
        atexit.register(self.process.terminate)

    def _ask(self, **request: Any) -> int:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(json.dumps(request) + "\n")
        self.process.stdin.flush()
        return int(self.process.stdout.readline())

    def start(self, log: Path, call: str, **arguments: Any) -> int:
        """Forks a child that calls "module:function" with JSON arguments; its outputs go to `log`."""
        return self._ask(do="start", log=str(log), call=call, arguments=arguments)

    def wait(self, pid: int, log: Path) -> Ended:
        """Waits for a child's end."""
        return Ended(os.waitstatus_to_exitcode(self._ask(do="wait", pid=pid)), log.read_text(errors="replace"))

    def run(self, log: Path, call: str, **arguments: Any) -> Ended:
        return self.wait(self.start(log, call, **arguments), log)


@functools.cache
def zygote() -> Zygote:
    """The one of this test session."""
    return Zygote()


def command(*argv: str) -> None:
    """`python -m dna_fast ...`, from where its imports are done."""
    from dna_fast.__main__ import main

    sys.argv = ["dna-fast", *argv]
    main()


def serve() -> None:
    """The process's life: requests on standard input, a number for each on standard output."""
    for name in PRELOADED:
        importlib.import_module(name)
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever prints must not get among the answers
    for line in sys.stdin:
        request = json.loads(line)
        if request["do"] == "wait":
            number = os.waitpid(request["pid"], 0)[1]
        elif (number := os.fork()) == 0:
            _child(request)
        answers.write(f"{number}\n")
        answers.flush()


def _child(request: dict[str, Any]) -> None:
    """Does what was asked and ends, never to return into the loop of `serve`."""
    code = 1
    try:
        descriptor = os.open(request["log"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(descriptor, 1)
        os.dup2(descriptor, 2)
        module, function = request["call"].split(":")
        arguments = request["arguments"]
        getattr(importlib.import_module(module), function)(*arguments.pop("argv", ()), **arguments)
        code = 0
    except SystemExit as error:
        code = error.code if isinstance(error.code, int) else int(error.code is not None)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
