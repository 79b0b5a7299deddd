"""Every wrong input ends in one message that names the culprit and says what to do; docs/wrong-inputs.md holds them all."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import wrong_inputs_files  # each adds its cases
import wrong_inputs_machine
import wrong_inputs_runs
import wrong_inputs_studies
from wrong_inputs import CASES, PAGE, ROOT, Case, fresh, make_shared, normalised, outcome, row

assert CASES, (wrong_inputs_files, wrong_inputs_machine, wrong_inputs_runs, wrong_inputs_studies)

REGENERATE = "write the page anew: python tests/wrong_inputs.py"


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Images, a configuration and a finished run; cases must not change them."""
    return make_shared(tmp_path_factory.mktemp("shared"))


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.id)
def test_wrong_input_gets_the_message_of_the_page(case: Case, tmp_path: Path, shared: Path) -> None:
    found = outcome(case, tmp_path, shared)
    assert found.code == case.code, found
    for word in case.words:
        assert word in found.message
    assert "Traceback" not in found.message
    if case.code == 2:
        assert found.stderr.count("error: ") == 1
        assert found.stderr.startswith("error: ")
    assert row(case, normalised(found.message, tmp_path, shared)) in rows(), REGENERATE


def rows() -> list[str]:
    return [line for line in PAGE.read_text(encoding="utf-8").splitlines() if line.startswith("| ")]


def test_page_has_no_other_rows() -> None:
    assert len(rows()) == len(CASES) + len({case.group for case in CASES}), REGENERATE


def test_cases_are_many_and_differ() -> None:
    assert len({case.id for case in CASES}) == len(CASES) >= 60


def test_a_reader_that_leaves_early_gets_no_traceback() -> None:
    code = "from dna_fast.__main__ import main; main()"
    child = subprocess.Popen(
        [sys.executable, "-c", code, "config", "reference"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=ROOT
    )
    assert child.stdout is not None
    child.stdout.close()  # before anything is written
    assert child.stderr is not None
    assert child.stderr.read() == b""
    child.stderr.close()
    child.wait(timeout=60)


def test_a_bug_shows_its_traceback_where_it_is_asked_for() -> None:
    planted = "import dna_fast.about; dna_fast.about.facts = lambda: {}['x']"
    found = fresh("--traceback", "info", before=planted)
    assert "Traceback" in found.message
    assert "KeyError: 'x'" in found.message
