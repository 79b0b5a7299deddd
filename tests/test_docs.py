"""What README and the guides show must run: every `dna-fast` command and every Python example, on small stand-ins.

The pages run in one directory, where configs/ holds small configurations under the shipped names and /path/to/imagenet is a
folder of a few hundred pictures. Targets of make are looked up, not made.
"""

from __future__ import annotations

import copy
import re
import shlex
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image
from small_run import CONFIG

from dna_fast import cli

ROOT = Path(__file__).parent.parent
GUIDES = (
    "README.md",
    *(f"docs/{name}.md" for name in ("getting-started", "imagenet", "searching", "contributing", "export", "studies")),
)
PAGES = sorted({*GUIDES, *(f"docs/{path.name}" for path in (ROOT / "docs").glob("*.md"))})
IMAGENET = "/path/to/imagenet"

_EXAMPLE = re.compile(
    r"^```python\n(?P<python>.*?)^```|^    (?:\.venv/bin/)?(?P<command>dna-fast [^\n]*)", re.DOTALL | re.MULTILINE
)


def text_of(page: str) -> str:
    return (ROOT / page).read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the examples run."""
    place = tmp_path_factory.mktemp("docs")
    (place / "configs").mkdir()
    (place / "configs" / "digits.yaml").write_text(yaml.safe_dump(CONFIG))
    folder: dict[str, Any] = copy.deepcopy(CONFIG)
    folder["data"] = {"kind": "folder", "root": IMAGENET}
    folder["space"]["frame"]["num_classes"] = 2
    folder["rate"] = {"images": 64, "calibration_images": 32}
    (place / "configs" / "imagenet_b7.yaml").write_text(yaml.safe_dump(folder))
    rng = np.random.default_rng(0)
    for split, images in (("train", 120), ("val", 40)):
        for kind in ("cat", "dog"):
            directory = place / "imagenet" / split / kind
            directory.mkdir(parents=True)
            for number in range(images):
                Image.fromarray(rng.integers(0, 256, (36, 36, 3), np.uint8)).save(directory / f"{number}.jpg")
    return place


@pytest.fixture(scope="module")
def finished(place: Path) -> Path:
    """The run that later examples start from."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        for command in (
            "train configs/digits.yaml --out runs/digits",
            "rate runs/digits",
            "search runs/digits",
            "retrain runs/digits",
        ):
            run_command(f"dna-fast {command}", place)
    return place


def run_command(command: str, place: Path) -> None:
    """Runs a line of a page in this process; it must end well."""
    arguments = shlex.split(command.replace(IMAGENET, str(place / "imagenet")), comments=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", arguments)
        with pytest.raises(SystemExit) as stop:
            cli.main()
    assert (stop.value.code or 0) == 0, command


@pytest.mark.parametrize("page", GUIDES)
def test_examples_run(page: str, finished: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(finished)
    examples = list(_EXAMPLE.finditer(text_of(page)))
    assert examples, page
    for example in examples:
        if example["command"]:
            run_command(example["command"], finished)
        else:
            exec(compile(example["python"], page, "exec"), {"__name__": "__main__"})


def test_the_first_example_proves_its_answer(capsys: pytest.CaptureFixture[str]) -> None:
    example = next(e["python"] for e in _EXAMPLE.finditer(text_of("README.md")) if e["python"])
    exec(compile(example, "README.md", "exec"), {})
    assert capsys.readouterr().out.startswith("optimal ")


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page: str) -> None:
    targets = [t for t in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", text_of(page)) if "://" not in t]
    for target in targets:
        assert ((ROOT / page).parent / target).exists(), target


@pytest.mark.parametrize("page", PAGES)
def test_what_is_made_and_installed_exists(page: str) -> None:
    makefile, project = text_of("Makefile"), text_of("pyproject.toml")
    for target in re.findall(r"^    make ([a-z-]+)|`make ([a-z-]+)", text_of(page), flags=re.MULTILINE):
        assert f"\n{''.join(target)}:" in makefile, target
    for extras in re.findall(r"pip install '(?:\.|dna_fast)\[([a-z,]+)\]'", text_of(page)):
        for extra in extras.split(","):
            assert re.search(rf"^{extra} = \[", project, flags=re.MULTILINE), extra


@pytest.mark.parametrize("page", PAGES)
def test_commands_named_in_passing_exist(page: str) -> None:
    names = {command.name or command.callback.__name__ for command in cli.app.registered_commands}
    names |= {group.name for group in cli.app.registered_groups}
    for name in re.findall(r"`dna-fast ([a-z]+)", text_of(page)):
        assert name in names, name


def test_readme_leads_to_every_guide() -> None:
    for page in GUIDES[1:]:
        assert f"]({page})" in text_of("README.md"), page
