"""The package's border: what importing it loads, and what it imports."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import dna_fast.data

FILES = sorted(Path(dna_fast.data.__file__).parent.glob("*.py"))


def imported_modules(path: Path) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names.add("." * node.level + (node.module or ""))
    return names


def test_import_loads_neither_torch_nor_dali() -> None:
    code = (
        "import sys, dna_fast.data; from dna_fast.data import ImageIndex, Loader, TrainTransform, class_balanced_split; "
        "sys.exit(str(sorted({'torch', 'nvidia.dali', 'PIL', 'sklearn'} & set(sys.modules)) or 0))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stderr.strip() == "0"
    assert done.returncode == 1


@pytest.mark.parametrize("name", dna_fast.data.__all__)
def test_public_name_resolves(name: str) -> None:
    if name == "DaliLoader":
        pytest.importorskip("torch", reason="needs torch")
    assert getattr(dna_fast.data, name).__name__ == name
    assert name in dir(dna_fast.data)


def test_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'Nonsense'"):
        _ = dna_fast.data.Nonsense


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_imports_stay_inside(path: Path) -> None:
    modules = imported_modules(path)
    assert not [m for m in modules if m.startswith("dna_fast") and not m.startswith("dna_fast.data")]
    assert path.name == "dali.py" or not [m for m in modules if m.startswith("nvidia")]
