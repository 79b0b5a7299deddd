"""Wrong inputs as data: what is wrong, how to provoke it, which words the message must hold.

`python tests/wrong_inputs.py` writes docs/wrong-inputs.md anew; tests/test_wrong_inputs.py runs every case and compares.
A case is a function of a `Place`. It returns the arguments of `dna-fast`, or an `Outcome` that it came to otherwise, or
it calls the public API and raises.
"""

from __future__ import annotations

import contextlib
import io
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "wrong-inputs.md"
CLASSES = ("apple", "bear", "cat", "dog")

SPACE = {
    "name": "tiny",
    "choices": [{"kernel": 3, "expand_ratio": 2}, {"kernel": 5, "expand_ratio": 3}],
    "blocks": [
        {"stride": 2, "cells": [{"depth": 1, "width": 8}, {"depth": 2, "width": 10}]},
        {"stride": 1, "cells": [{"depth": 2, "width": 12}, {"depth": 1, "width": 16}]},
    ],
    "frame": {"stem_channels": 8, "stem_width": 6, "head_channels": 16, "num_classes": 4, "resolution": 16},
}
CONFIG = {
    "name": "tiny",
    "space": SPACE,
    "data": {"kind": "folder", "root": "data", "threads": 1},
    "teacher": {
        "pretrained": False,
        "arch": {
            "stem_size": 8,
            "num_features": 16,
            "arch_def": [["ds_r1_k3_s1_c8"], ["ir_r1_k3_s2_e3_c12"], ["ir_r1_k3_s1_e3_c16"]],
        },
    },
    "train": {"epochs": 1, "batch_size": 16, "bn_group": 16, "learning_rates": [0.01], "reference_batch": 16},
    "rate": {"images": 32, "batch_size": 16, "calibration_images": 16},
    "search": {"max": {"macs": "teacher/1.1"}, "top": 3},
    "retrain": {"epochs": 1, "optimizer": "adamw", "schedule": "cosine", "batch_size": 16, "warmup_epochs": 0},
}


# ---- where cases happen ----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Outcome:
    """How a command or call ended."""

    code: int | str  # exit code, or the name of an exception
    message: str
    stderr: str = ""


@dataclass(frozen=True)
class Place:
    """A directory of a case's own, beside what all share and none may change."""

    tmp: Path
    shared: Path  # data/, config.yaml, run/
    patch: pytest.MonkeyPatch = field(default_factory=pytest.MonkeyPatch)

    def run(self) -> Path:
        """A copy of the finished run."""
        if not (self.tmp / "run").exists():
            shutil.copytree(self.shared / "run", self.tmp / "run")
        return self.tmp / "run"

    def data(self) -> Path:
        """A copy of the images."""
        shutil.copytree(self.shared / "data", self.tmp / "data")
        return self.tmp / "data"

    def write(self, name: str, content: str | bytes) -> Path:
        path = self.tmp / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return path

    def config(self, text: str | None = None) -> Path:
        """A configuration file: the shared one, or `text`."""
        if text is not None:
            return self.write("config.yaml", text)
        return self.shared / "config.yaml"

    def train(self, *overrides: str) -> list[str]:
        """Starts a run of its own with overrides."""
        given = [part for text in overrides for part in ("--set", text)]
        return ["train", str(self.config()), "--out", str(self.tmp / "new"), *given]

    def search(self, *options: str) -> list[str]:
        """A search in the shared run that writes elsewhere."""
        return ["search", str(self.shared / "run"), "--out", str(self.tmp / "answer"), *options]


def make_images(folder: Path, per_class: int) -> None:
    rng = np.random.default_rng(len(str(per_class)))
    for name in CLASSES:
        (folder / name).mkdir(parents=True)
        for i in range(per_class):
            Image.fromarray(rng.integers(0, 255, (16, 16, 3), np.uint8)).save(folder / name / f"{i:02}.png")


def make_shared(root: Path) -> Path:
    """Images, a configuration, and a finished run, all from the real writers."""
    from dna_fast.architecture import Architecture
    from dna_fast.export import build_model, save_model
    from dna_fast.pipeline import Run
    from dna_fast.query import Query, answer, write_answer

    make_images(root / "data" / "train", 24)
    make_images(root / "data" / "val", 8)
    (root / "config.yaml").write_text(yaml.safe_dump(CONFIG), encoding="utf-8")
    run = Run.start(root / "config.yaml", root / "run")
    teacher = run.teacher()
    run.train(teacher)
    run.rate(teacher)
    query = Query.of_run(run)
    winner = write_answer(query, answer(query), root / "run")
    assert isinstance(winner, Architecture)
    save_model(build_model(winner), winner, root / "run" / "models" / "found")
    return root


def command(arguments: list[str], patch: pytest.MonkeyPatch) -> Outcome:
    """Runs the command line in this process."""
    from dna_fast import cli

    out, err = io.StringIO(), io.StringIO()
    patch.setattr(sys, "argv", ["dna-fast", *arguments])
    code: int | str = 0
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            cli.main()
        except SystemExit as stop:
            code = stop.code if isinstance(stop.code, int) else 0
    stdout, stderr = out.getvalue().strip(), err.getvalue().strip()
    return Outcome(code, stderr or stdout.splitlines()[-1], stderr)


def fresh(*arguments: str, before: str = "", **environment: str) -> Outcome:
    """Runs the command line in a process of its own, after the statements `before`."""
    code = f"import sys\n{before}\nsys.argv = {['dna-fast', *arguments]!r}\nfrom dna_fast.__main__ import main\nmain()"
    paths = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": paths, **environment},
        capture_output=True,
        text=True,
        timeout=120,
        cwd=tempfile.gettempdir(),
    )
    return Outcome(done.returncode, done.stderr.strip() or done.stdout.strip(), done.stderr.strip())


def without(*packages: str) -> str:
    """Statements after which the packages are not installed."""
    return f"""
class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {packages!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
sys.meta_path.insert(0, Blocker())
"""


def outcome(case: Case, tmp: Path, shared: Path) -> Outcome:
    """Provokes a case."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp)
        try:
            arguments = case.provoke(Place(tmp, shared, patch))
        except Exception as error:
            return Outcome(type(error).__name__, str(error))
        return arguments if isinstance(arguments, Outcome) else command(arguments, patch)


def normalised(message: str, tmp: Path, shared: Path) -> str:
    """The message without what differs between machines and versions."""
    text = message
    for path, name in ((shared, "SHARED"), (tmp, "DIR"), (ROOT, "CHECKOUT")):
        text = text.replace(str(path), name)
    for pattern, name in NORMALISED:
        text = re.sub(pattern, name, text)
    return " ".join(text.split())


NORMALISED = (
    (r"\b[0-9a-f]{12,64}\b", "<sha256>"),
    (r"\b\d+\.\d+\.\d+(?:\+\w+)?\b", "<version>"),
    (r"_[CS]\w*\.cpython\S*\.so", "<module>"),
    (r"dna-fast-\w+\.txt", "dna-fast-….txt"),
    (r"one of [\w, ]+ on this CPU", "one of <those it has> on this CPU"),
    (r"/tmp/\S*?(?=dna-fast-)", ""),
    (r"0x[0-9a-f]+", "<address>"),
)


# ---- the cases -------------------------------------------------------------------------------------------------------

Provoke = Callable[[Place], "list[str] | Outcome | None"]


@dataclass(frozen=True)
class Case:
    """One wrong input.

    Attributes:
        group, what: where the table has it, and what is wrong.
        provoke: does it.
        words: what the message must name: the culprit, and what to do.
        code: the exit code, or the documented exception of the API.
        varies: part of the message is another package's or the machine's; the table then shows it up to there.
    """

    group: str
    what: str
    provoke: Provoke
    words: tuple[str, ...]
    code: int | str = 2
    varies: str = ""

    @property
    def id(self) -> str:
        return re.sub(r"\W+", "_", f"{self.group}_{self.what}").strip("_")[:70]


CASES: list[Case] = []


def wrong(group: str, what: str, *words: str, code: int | str = 2, varies: str = "") -> Callable[[Provoke], Provoke]:
    def add(provoke: Provoke) -> Provoke:
        CASES.append(Case(group, what, provoke, words, code, varies))
        return provoke

    return add


def page(messages: dict[str, tuple[Case, str]]) -> str:
    """docs/wrong-inputs.md."""
    lines = [
        "# Wrong inputs and what is said about them",
        "",
        "Written by `python tests/wrong_inputs.py`; `tests/test_wrong_inputs.py` provokes every row and compares. A command ends with",
        "exit code 2 (or what the row says) and one message on standard error; a call raises the named exception. DIR, SHARED and",
        "CHECKOUT stand for directories, `…` for what another package or the machine says in its own words.",
    ]
    for group in dict.fromkeys(case.group for case in CASES):
        lines += ["", f"## {group}", "", "| what is wrong | message |", "|---|---|"]
        for case, text in messages.values():
            if case.group == group:
                lines.append(row(case, text))
    return "\n".join(lines) + "\n"


def row(case: Case, text: str) -> str:
    """A line of the table."""
    if case.varies:
        text = re.sub(case.varies, "…", text)
    kind = "" if case.code == 2 else f"(exit code {case.code}) " if isinstance(case.code, int) else f"{case.code}: "
    shown = f"{kind}{text}".replace("|", "\\|").replace("<", "&lt;")
    return f"| {case.what} | {shown} |"


def main() -> None:
    """Writes the page."""
    import wrong_inputs_files  # noqa: F401  (each adds its cases)
    import wrong_inputs_machine  # noqa: F401
    import wrong_inputs_runs  # noqa: F401
    import wrong_inputs_studies  # noqa: F401

    with tempfile.TemporaryDirectory() as directory:
        shared = make_shared(Path(directory) / "shared")
        messages = {}
        for number, case in enumerate(CASES):
            tmp = Path(directory) / f"case_{number}"
            tmp.mkdir()
            found = outcome(case, tmp, shared)
            messages[case.id] = (case, normalised(found.message, tmp, shared))
            missing = [word for word in case.words if word not in found.message]
            if missing or found.code != case.code:
                print(f"NOT AS EXPECTED {case.id}: {found.code}, missing {missing}: {found.message[-600:]}\n")
        PAGE.write_text(page(messages), encoding="utf-8")


if __name__ == "__main__":
    import wrong_inputs  # this file as the cases know it

    wrong_inputs.main()
