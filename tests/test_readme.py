"""What README shows must run."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_python_examples_run(capsys: pytest.CaptureFixture[str]) -> None:
    examples = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)
    assert examples
    for example in examples:
        exec(compile(example, "README.md", "exec"), {})
    assert capsys.readouterr().out.startswith("optimal ")


def test_links_and_images_exist() -> None:
    targets = [t for t in re.findall(r"\]\(([^)#]+)\)", README) if "://" not in t]
    assert "docs/images/front.png" in targets
    for target in targets:
        assert (ROOT / target).exists(), target


def test_commands_are_known() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for target in re.findall(r"^    make ([a-z-]+)", README, flags=re.MULTILINE):
        assert f"\n{target}:" in makefile, target
    subcommands = set(re.findall(r"dna-fast ([a-z]+)", README))
    cli = (ROOT / "dna_fast" / "cli.py").read_text(encoding="utf-8")
    assert {"train", "rate", "search", "retrain"} <= subcommands
    for name in subcommands:
        assert re.search(rf"^def {name}\(", cli, flags=re.MULTILINE), name
