"""A wheel, built from the tracked files, installed where nothing of the checkout is, and put to work there."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest
import yaml
from small_run import CONFIG

ROOT = Path(__file__).resolve().parents[1]
OTHER_TORCH = "import sys, torch; torch.__version__ = '2.99.0'; from dna_fast.__main__ import main; main()"


def run(*command: object, cwd: Path, expect: int = 0, **environment: str) -> str:
    """What a command printed, standard error behind standard output."""
    clean = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")}
    done = subprocess.run(
        [str(part) for part in command],
        cwd=cwd,
        env={**clean, **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == expect, done.stdout + done.stderr
    return done.stdout + done.stderr


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built without CUDA kernels, which would take minutes more and of which nothing is asked here."""
    source, out = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    archive = source / "tree.tar"
    tracked = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True).stdout
    subprocess.run(["tar", "--null", "-T", "-", "-cf", archive], cwd=ROOT, input=tracked, check=True)
    run("tar", "-xf", archive, cwd=source)
    build = ("-m", "pip", "wheel", ".", "--no-deps", "--no-build-isolation", "--quiet", "--wheel-dir", out)
    run(sys.executable, *build, cwd=source, DNA_FAST_CUDA="off")
    (built,) = out.glob("dna_fast-*.whl")
    return built


@pytest.fixture(scope="module")
def python(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The interpreter of an environment that holds the wheel; what it depends on is lent by the environment of the tests."""
    home = tmp_path_factory.mktemp("fresh")
    venv.create(home, with_pip=False, symlinks=True)
    python = home / "bin" / "python"
    run(
        sys.executable,
        "-m",
        "pip",
        "--python",
        python,
        "install",
        "--no-deps",
        "--no-index",
        "--quiet",
        wheel,
        cwd=home,
    )
    site = run(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))", cwd=home).strip()
    # Behind its own packages. Files that make an editable install work are read in site directories alone, so not in this one.
    Path(site, "lent.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return python


@pytest.mark.slow
def test_it_holds_what_it_needs_and_no_more(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    assert {"dna_fast/configs/digits.yaml", "dna_fast/configs/imagenet_b7.yaml", "dna_fast/py.typed"} <= set(names)
    assert "dna_fast/study_published.json" in names
    assert {Path(name).name.split(".")[0] for name in names if name.endswith(".so")} == {"_C", "_solver"}
    assert {name.split("/")[0].split("-")[0] for name in names} == {"dna_fast"}
    assert not [name for name in names if name.endswith((".cpp", ".cu", ".h", "_test.py"))]


@pytest.mark.slow
def test_it_works_where_nothing_of_the_checkout_is(python: Path, tmp_path: Path) -> None:
    command = python.parent / "dna-fast"
    where = run(python, "-c", "import dna_fast, dna_fast.ops; print(dna_fast.__file__)", cwd=tmp_path)
    assert where.startswith(str(python.parents[1])), where
    facts = json.loads(run(command, "info", "--json", cwd=tmp_path))
    assert facts["torch ops (dna_fast._C)"].startswith("built for torch")
    assert facts["solver (dna_fast._solver)"].startswith("built")
    costs = json.loads(run(command, "cost", "--model", "dna_c", "--json", cwd=tmp_path))
    assert costs["macs"] == 450138976
    assert "digits.yaml: fine" in run(
        command, "config", "check", "digits", cwd=tmp_path
    )  # the shipped ones are in the wheel
    (tmp_path / "small.yaml").write_text(yaml.safe_dump(CONFIG))
    run(command, "train", "small.yaml", "--out", "run", cwd=tmp_path)
    run(command, "rate", "run", cwd=tmp_path)
    answer = json.loads(run(command, "search", "run", "--json", cwd=tmp_path))
    assert answer["status"] == "optimal"
    assert json.loads((tmp_path / "run" / "provenance.json").read_text())["train"]["revision"] is None


@pytest.mark.slow
def test_another_torch_than_it_was_built_for_is_told_what_to_do(python: Path, tmp_path: Path) -> None:
    said = run(python, "-c", OTHER_TORCH, "info", "--json", cwd=tmp_path)
    ops = json.loads(said)["torch ops (dna_fast._C)"]
    assert ops.startswith("not usable (")
    assert "expected a build for torch 2.99.0, got one for torch" in ops
    assert "build it again with" in ops
    (tmp_path / "small.yaml").write_text(yaml.safe_dump(CONFIG))
    failed = run(python, "-c", OTHER_TORCH, "train", "small.yaml", "--out", "run", cwd=tmp_path, expect=2)
    assert "expected a build for torch 2.99.0" in failed
    assert "build it again with" in failed
    assert "Traceback" not in failed
