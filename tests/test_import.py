"""What importing promises: nothing is loaded before it is used, and searching needs no torch."""

from __future__ import annotations

import subprocess
import sys

import pytest

import dna_fast

HEAVY = ("torch", "nvidia", "timm", "numpy", "dna_fast._solver", "dna_fast._C")

BLOCK_TORCH = """
import sys

class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("torch", "timm", "nvidia", "yaml", "typer"):
            raise ImportError(f"blocked: {name}")

sys.meta_path.insert(0, Blocker())
"""


def run(code: str) -> str:
    """Output of `code` in a fresh interpreter."""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_importing_loads_nothing_else() -> None:
    code = f"import sys, dna_fast; dir(dna_fast); print([m for m in {HEAVY} if m in sys.modules])"
    assert run(code) == "[]"


@pytest.mark.parametrize("name", dna_fast.__all__)
def test_public_name_resolves(name: str) -> None:
    assert name in dir(dna_fast)
    assert getattr(dna_fast, name) is not None


def test_solve_works_where_torch_cannot_be_imported() -> None:
    code = """
import numpy as np, dna_fast
losses = [np.array([3.0, 1.0]), np.array([0.5, 0.25, 2.0])]
macs = [np.array([1, 4]), np.array([2, 9, 1])]
solution = dna_fast.solve(losses, {"macs": macs}, {"macs": 6})
print(solution.status, list(map(int, solution.choice)), solution.loss)
"""
    assert run(BLOCK_TORCH + code) == "optimal [1, 0] 1.5"


def test_costs_of_a_space_work_where_torch_cannot_be_imported() -> None:
    code = 'import dna_fast; dna_fast.cost_table(dna_fast.preset("digits")); print("done")'
    assert run(BLOCK_TORCH + code) == "done"


def test_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'sovle'"):
        dna_fast.sovle  # type: ignore[attr-defined]


def test_the_command_line_without_its_packages_says_what_to_install() -> None:
    code = "import sys; sys.modules['typer'] = None; from dna_fast.__main__ import main; main()"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 1
    assert done.stderr.strip() == "error: the command line needs typer; install it with: pip install 'dna_fast[torch]'"
