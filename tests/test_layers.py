"""Who may use whom: the arrows of docs/architecture.md as tables. A file without a row fails."""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "dna_fast"
CSRC = ROOT / "csrc"

# ---- Python ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Row:
    """What a module may import: dna_fast's modules by their name inside it, other packages by their first name.

    `name.*` stands for a package and all in it. The standard library is free to all, but for what RESTRICTED lists.
    """

    always: frozenset[str]
    lazily: frozenset[str]  # inside a function or under TYPE_CHECKING only


def row(always: str = "", lazily: str = "") -> Row:
    return Row(frozenset(always.split()), frozenset(lazily.split()))


RESTRICTED = {"argparse", "optparse"}  # arguments are parsed in one room

EVERY_STAGE = (
    "architecture config cost data.* export ops.* profile rate recipe report retrain search space study supernet tables "
    "retrain_step teacher train train_log train_profile"
)

TABLE: Mapping[str, Row] = {
    # The package itself: public names on first use.
    "__init__": row("", "architecture cost explanation search space tables"),
    "__main__": row("cli"),
    # Leaves.
    "_files": row(),
    "_lock": row(""),
    "_loop": row("", "torch"),
    "memory": row(""),
    "resume": row(),
    "_names": row(),
    # Searching: no torch, no DALI, nothing compiled but the solver.
    "space": row("numpy"),
    "tables": row("_files space numpy", "pandas"),
    "architecture": row("_files _names space numpy"),
    "cost": row("space tables architecture numpy"),
    "search_arrays": row("numpy"),
    "search": row("search_arrays tables architecture space _solver numpy", "_solver"),
    "explanation": row("search search_arrays numpy"),
    "restrictions": row("space numpy"),
    # Configuration.
    "config_schema": row("_names"),
    "config_yaml": row("", "yaml"),
    "config_sections": row("config_schema"),
    "config": row("_files _names config_schema config_sections config_yaml placement space"),
    "config_sources": row("_names config config_schema config_yaml"),
    "config_reference": row("config config_schema config_yaml"),
    "config_check": row("config", "teacher torch"),
    # Training and rating. Loaders are arguments: neither imports data.
    "supernet": row("space ops.* numpy torch"),
    "teacher_cuts": row("torch"),
    "teacher_fused": row("ops.* torch", "timm"),
    "teacher": row("_names teacher_cuts ops.* torch", "safetensors teacher_fused timm"),
    "teacher_segments": row("teacher torch"),
    "teacher_compiled": row("teacher teacher_fused teacher_segments torch"),
    "optimizer_state": row("torch"),
    "tensor_files": row("_files safetensors torch"),
    "checkpoint_state": row("_files"),
    "checkpoint": row("_files checkpoint_state optimizer_state resume tensor_files torch"),
    "parallel": row("parallel_watch torch"),
    "parallel_watch": row(),
    "placement": row(),
    "placement_cost": row("config_sections parallel placement supernet teacher teacher_segments train_step torch"),
    "step_clock": row("torch"),
    "train_step": row("ops.* supernet torch"),
    "train": row(
        "_files _loop checkpoint config_sections step_clock supernet teacher teacher_compiled train_step torch"
    ),
    "train_profile": row("_files _loop torch"),
    "train_log": row("space step_clock train"),
    "train_ranks": row(
        "_loop checkpoint config_sections parallel placement step_clock supernet teacher teacher_segments train torch"
    ),
    "calibration": row("supernet torch"),
    "rating_store": row("_files numpy"),
    "rate_features": row("_loop tables teacher numpy torch"),
    "rate_plan": row("torch"),
    "rate_operators": row("calibration ops.* supernet torch"),
    "rate_oracle": row("calibration rate_features supernet numpy torch"),
    "rate_trie": row("calibration ops.* rate_features rate_operators rate_plan supernet tables numpy torch"),
    "rate_share": row(),
    "rate": row(
        "_loop rate_features rate_oracle rate_plan rate_share rate_trie rating_store space supernet tables teacher numpy torch"
    ),
    # After the search.
    "timm_builder": row("timm torch"),  # its text goes into generated files
    "export": row("_files architecture space timm_builder safetensors timm torch"),
    "export_check": row("torch"),
    "export_source": row("_files architecture export export_check safetensors torch", "data.* pipeline sklearn"),
    "export_timm": row("__init__ _files architecture export export_source timm_builder"),
    "export_formats": row("__init__ _files about export export_source export_timm timm torch", "onnx onnxruntime"),
    "export_job": row("__init__ _files about export_check export_formats export_source torch"),
    "timm_models": row("architecture export export_timm timm_builder timm torch"),
    "inherit": row("architecture calibration export supernet torch"),
    "distill": row("teacher torch"),
    "head": row("_loop inherit recipe retrain retrain_step torch", "parallel"),
    "mixing": row("numpy torch"),
    "recipe": row("_loop torch", "scipy"),
    "retrain": row("_files _loop distill recipe retrain_ranks retrain_step timm torch", "parallel"),
    "retrain_step": row("_loop distill mixing optimizer_state recipe resume tensor_files numpy timm torch"),
    "retrain_ranks": row("_loop distill parallel recipe retrain_norms retrain_step torch"),
    "retrain_norms": row("parallel timm torch"),
    # Latencies of a device: tables and their sums need no torch, so that a search can read them anywhere.
    "profile_layers": row("architecture space numpy"),
    "profile_fit": row("numpy"),
    "profile_table": row("_files architecture profile_fit profile_layers space tables numpy"),
    "profile_models": row("architecture export profile_layers space teacher_fused torch"),
    "profile": row(
        "_loop about architecture cost profile_layers profile_models profile_table space study_sampling numpy torch"
    ),
    "report": row("_files numpy", "matplotlib"),
    "about": row("__init__", "_C _solver ops.* nvidia numpy timm torch"),
    # Studies of rank agreement: numpy and scipy; a study of a run's own space trains through `pipeline`.
    "study_statistics": row("numpy", "scipy"),
    "study": row("study_statistics numpy"),
    "study_scores": row("architecture space"),
    "study_published": row("_files architecture cost space study study_scores numpy"),
    "study_sampling": row("cost tables numpy"),
    "study_plan": row(
        "_files architecture cost study study_sampling study_scores tables numpy",
        "display pipeline retrain_step stages",
    ),
    "pairwise": row("search space numpy"),
    "assembled_study": row(
        "_files architecture cost inherit pairwise query retrain_inherited search space study_statistics numpy torch"
    ),
    "comparison": row("_files architecture cost space study_statistics numpy", "matplotlib recipe scipy stages"),
    "study_report": row("_files study study_statistics", "display matplotlib"),
    # Data: knows no other room.
    "data": row("", "data.*"),
    "data.casualties": row("data.* numpy"),
    "data.cifar10": row("numpy", "PIL"),
    "data.dali": row("data.* numpy torch", "nvidia"),
    "data.digits": row("data.* numpy", "PIL sklearn"),
    "data.errors": row(),
    "data.headers": row("", "PIL"),
    "data.index": row("data.* numpy"),
    "data.keyed": row("numpy"),
    "data.listing": row(),
    "data.loader": row("", "torch"),
    "data.order": row("data.* numpy"),
    "data.pages": row("torch"),
    "data.pixels": row("data.* numpy torch"),
    "data.probe": row("data.*", "PIL"),
    "data.randaugment": row("numpy torch"),
    "data.report": row("data.* numpy"),
    "data.splits": row("data.* numpy"),
    "data.survey": row("data.* numpy"),
    "data.transforms": row(),
    "data.tuning": row("", "data.*"),
    "data.waiting": row(),
    "data.windows": row("data.* numpy"),
    "data.workers": row("torch"),
    # Ops: each stands alone on the one library; the reference is for reading and tests.
    "ops": row("ops.*"),
    "ops._library": row("_C torch"),
    "ops.depthwise": row("ops._library torch"),
    "ops.mbconv": row("ops._library torch"),
    "ops.feature_mse": row("ops._library torch"),
    "ops.reference": row("torch"),
    # A run: every stage on first use, one subcommand one stage.
    "images": row("_files config data.* numpy", "data.* recipe timm torch"),
    "pipeline": row(
        "__init__ _files config resume space numpy",
        f"{EVERY_STAGE} checkpoint distill images parallel pipeline_ranks pipeline_rate pipeline_teacher profile_table torch",
    ),
    "pipeline_teacher": row("_files pipeline recipe teacher tensor_files torch"),
    "pipeline_rate": row(
        "__init__ _files config_schema ops.* pipeline_ranks rate rating_store torch", "pipeline tables teacher"
    ),
    "pipeline_ranks": row(
        "parallel placement placement_cost rate_plan rate_share teacher_segments train_ranks",
        "_loop pipeline supernet teacher train",
    ),
    "query": row(
        "_files _names architecture config cost explanation restrictions search space tables", "display pipeline"
    ),
    "fronts": row("_files architecture query report numpy"),
    # A report: facts are read, sections are written of them, charts drawn; the page puts them together.
    "report_html": row(),
    "report_style": row("report"),
    "report_svg": row("report_html report_style numpy", "matplotlib"),
    "report_charts": row("report report_html report_style report_svg numpy"),
    "report_facts": row("_files architecture checkpoint_state config cost provenance query tables numpy"),
    "report_sections": row("architecture cost report report_charts report_facts report_html space numpy"),
    "report_search": row(
        "architecture query report_charts report_facts report_html report_sections restrictions search numpy"
    ),
    "report_origin": row("config report_facts report_html"),
    "report_measured_charts": row("report_charts report_html report_svg"),
    "report_measured": row(
        "_files architecture profile_table report_charts report_facts report_html report_measured_charts"
    ),
    "report_page": row(
        "__init__ _files report report_charts report_facts report_html report_measured "
        "report_origin report_search report_sections report_style"
    ),
    "display": row("rich"),
    "stage_log": row("_files", "torch"),
    "provenance": row("__init__ _files about"),
    "stages": row(
        "_lock architecture config cost display fronts memory pipeline provenance query report stage_log numpy",
        f"{EVERY_STAGE} pipeline_ranks placement retrain_inherited",
    ),
    "retrain_inherited": row(
        "_files architecture export head inherit pipeline recipe retrain_step supernet teacher torch"
    ),
    "recipes": row("_names architecture space"),
    "demo": row("display pipeline provenance query stages", EVERY_STAGE),
    "cli_options": row("typer", "config_sources display pipeline"),
    "cli_failures": row("cli_options"),
    "cli_ranks": row("cli_options", "display parallel rich"),
    "cli_assembled": row("cli_options typer", "_files assembled_study query retrain_inherited stages"),
    "cli_compare": row("cli_options typer", f"{EVERY_STAGE} cli_retrain comparison retrain_inherited stages"),
    "cli_config": row("cli_options typer", "config_check config_reference config_sources"),
    "cli_data": row("cli_options typer", "data.* display torch"),
    "cli_search": row("cli_options typer", f"{EVERY_STAGE} fronts provenance query"),
    "cli_retrain": row(
        "cli_options cli_ranks resume typer",
        f"{EVERY_STAGE} pipeline query recipes retrain_inherited retrain_ranks stages",
    ),
    "cli_report": row("cli_options typer", "report_page"),
    "cli_export": row("cli_options typer", "export_formats export_job export_source"),
    "cli_profile": row("cli_options typer", "cost display numpy profile profile_layers profile_table space torch"),
    "cli_study": row("cli_options typer", "config numpy study study_plan study_published study_report"),
    "cli": row(
        "cli_assembled cli_compare cli_config cli_data cli_export cli_failures cli_options cli_profile cli_ranks "
        "cli_report cli_retrain cli_search cli_study memory resume typer",
        f"{EVERY_STAGE} about demo display fronts pipeline query stages",
    ),
}

# Where torch must not come from, by whatever way.
WITHOUT_TORCH = ("space", "tables", "architecture", "cost", "search", "config")


def module_name(path: Path, package: Path = PACKAGE) -> str:
    """File -> name inside the package; a package's `__init__.py` goes by the package's name."""
    parts = path.relative_to(package).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" and len(parts) > 1 else parts)


MODULES = {module_name(path): path for path in sorted(PACKAGE.rglob("*.py"))}


def imports(source: str, module: str, is_package: bool = False) -> Iterator[tuple[str, bool, int]]:
    """(what, whether lazily, line) of every import in a source; dna_fast's own without their prefix."""

    def inside(full: str) -> str:
        return full.removeprefix("dna_fast.") if full != "dna_fast" else "__init__"

    def names(node: ast.AST) -> Iterator[str]:
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield inside(alias.name) if alias.name.split(".")[0] == "dna_fast" else alias.name.split(".")[0]
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parents = f"dna_fast.{module}".split(".") + (["x"] if is_package else [])
                base = ".".join([*parents[: -node.level], *([node.module] if node.module else [])])
            if base.split(".")[0] != "dna_fast":
                yield base.split(".")[0]
                return
            for alias in node.names:  # `from dna_fast import search` names a module, `... import solve` something in it
                full = inside(f"{base}.{alias.name}")
                yield full if full in TABLE or full in ("_C", "_solver") else inside(base)
        elif isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Constant):
            called = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            if called in ("import_module", "__import__") and isinstance(node.args[0].value, str):
                name = node.args[0].value
                yield inside(name) if name.split(".")[0] == "dna_fast" else name.split(".")[0]

    def walk(node: ast.AST, lazily: bool) -> Iterator[tuple[str, bool, int]]:
        for name in names(node):
            yield name, lazily, getattr(node, "lineno", 0)
        for part, value in ast.iter_fields(node):
            typing_only = isinstance(node, ast.If) and part == "body" and "TYPE_CHECKING" in ast.dump(node.test)
            in_function = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda) and part == "body"
            for child in value if isinstance(value, list) else [value]:
                if isinstance(child, ast.AST):
                    yield from walk(child, lazily or typing_only or in_function)

    yield from walk(ast.parse(source), False)


def allows(names: frozenset[str], wanted: str) -> bool:
    first = wanted.split(".")[0]
    return wanted in names or f"{first}.*" in names


def violations(source: str, module: str, is_package: bool = False) -> list[str]:
    """What a source imports against its row, in words."""
    found, rules = [], TABLE[module]
    for name, lazily, line in imports(source, module, is_package):
        if name == "__future__" or (name in sys.stdlib_module_names and name not in RESTRICTED and name not in MODULES):
            continue
        if allows(rules.always, name) or (lazily and allows(rules.lazily, name)):
            continue
        only = " at the top, only inside a function" if allows(rules.lazily, name) else ""
        found.append(f"{module}, line {line}: must not import {name}{only}")
    return found


@pytest.mark.parametrize("module", MODULES)
def test_module_keeps_to_its_arrows(module: str) -> None:
    assert module in TABLE, f"dna_fast/{module} has no row: add it here and to docs/architecture.md, with its arrows"
    path = MODULES[module]
    assert violations(path.read_text(encoding="utf-8"), module, path.name == "__init__.py") == []


@pytest.mark.parametrize(
    ("module", "source", "expected"),
    [
        ("search", "import torch", "line 1: must not import torch"),
        ("search", "def f():\n    from torch import nn", "line 2: must not import torch"),
        ("search", "from dna_fast.rate import rate", "must not import rate"),
        ("search", "from . import rate", "must not import rate"),
        ("tables", "import pandas", "must not import pandas at the top, only inside a function"),
        ("rate", "import argparse", "must not import argparse"),
        ("rate", "from nvidia import dali", "must not import nvidia"),
        ("data.digits", "from dna_fast.space import preset", "must not import space"),
        ("data.digits", "from ..space import preset", "must not import space"),
        ("data.index", "import importlib\nimportlib.import_module('nvidia.dali')", "line 2: must not import nvidia"),
        ("space", "try:\n    import dna_fast\nexcept ImportError: pass", "line 2: must not import __init__"),
        ("ops.mbconv", "from dna_fast.ops import reference", "must not import ops.reference"),
        ("retrain", "from dna_fast.cli import main", "must not import cli"),
    ],
)
def test_planted_import_is_caught(module: str, source: str, expected: str) -> None:
    (found,) = violations(source, module)
    assert expected in found


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("tables", "def f():\n    import pandas"),
        ("tables", "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import pandas"),
        ("search", "import json, numpy as np\nfrom dna_fast import _solver, tables"),
        ("data.index", "from .keyed import keys"),
    ],
)
def test_permitted_import_passes(module: str, source: str) -> None:
    assert violations(source, module) == []


@pytest.mark.parametrize("start", WITHOUT_TORCH)
def test_no_way_leads_to_torch(start: str) -> None:
    reached, waiting = set(), [start]
    while waiting:
        name = waiting.pop()
        if name not in reached:
            reached.add(name)
            waiting += [*TABLE[name].always, *TABLE[name].lazily] if name in TABLE else []
    assert reached.isdisjoint({"torch", "timm", "nvidia", "_C"})


def test_arrows_have_no_circle() -> None:
    assert_no_circle({name: rules.always for name, rules in TABLE.items() if "." not in name})


def assert_no_circle(arrows: Mapping[str, frozenset[str]]) -> None:
    done: set[str] = set()

    def visit(name: str, path: tuple[str, ...]) -> None:
        assert name not in path, f"circle: {' -> '.join([*path, name])}"
        if name not in done:
            for other in arrows.get(name, frozenset()):
                visit(other, (*path, name))
            done.add(name)

    for name in arrows:
        visit(name, ())


# ---- C++ -------------------------------------------------------------------------------------------------------------

# Part -> the parts whose headers its .h and .cpp may include, besides its own.
SOLVER = {
    part: frozenset(parts.split())
    for part, parts in {
        "limit": "",
        "ordered": "",
        "kept_tree": "limit",
        "problem": "",
        "solution": "",
        "chain": "problem",
        "dominance": "chain kept_tree limit ordered problem",
        "bound": "chain limit problem",
        "planes": "",
        "prices": "bound chain limit planes",
        "core": "bound chain",
        "swaps": "bound chain limit",
        "forward": "bound chain dominance limit ordered",
        "near_ties": "kept_tree dominance limit ordered",
        "guided": "bound chain core dominance forward limit ordered prices solution swaps",
        "exact": "guided limit solution",
        "beam": "guided limit solution",
        "front": "bound chain dominance limit near_ties ordered problem solution",
        "ties": "bound chain dominance forward guided limit ordered solution",
        "infeasible": "chain exact limit problem solution",
        "solve": "beam chain dominance exact infeasible limit problem solution ties",
        "many": "dominance limit near_ties problem solution solve",
        "bindings": "beam exact front limit many problem solution solve",
    }.items()
}
COMMON = {"cpu_target": "", "cuda_launch": "", "cuda_utils": "", "cuda_warp": "cuda_utils", "layout": ""}  # alike
COMMON |= {"low_precision": "cpu_target", "vectors": "low_precision"}
FRAMEWORKS = ("torch/", "ATen/", "c10/", "pybind11/", "Python.h")
CUDA = ("cuda", "cub/", "thrust/", "cutlass/")
COMMON_MAY = {
    "layout": FRAMEWORKS,
    "cuda_launch": FRAMEWORKS + CUDA,
    "cuda_utils": CUDA,
}  # what else a part of common may know
CLOCK = ("chrono", "ctime", "time.h", "sys/time.h")


def includes(source: str) -> list[str]:
    return re.findall(r'^\s*#\s*include\s*[<"]([^>"]+)[>"]', source, re.MULTILINE)


def include_violations(source: str, path: str) -> list[str]:
    """What a C++ or CUDA source includes against the rules, in words; `path` is relative to csrc."""
    folder, name, found = Path(path).parent, Path(path).name, []
    if folder == Path("solver"):
        part = Path(name).stem
        if part not in SOLVER:
            return [f"csrc/{path} has no row: add it here and to docs/architecture.md, with its arrows"]
        forbidden = CUDA if part == "bindings" else FRAMEWORKS + CUDA + (() if part == "limit" else CLOCK)
        for header in includes(source):
            other = Path(header).stem
            if other in SOLVER and header.endswith(".h") and other != part and other not in SOLVER[part]:
                found.append(f"csrc/{path} must not include {header}")
            if header.startswith(forbidden):
                found.append(f"csrc/{path} must not include {header}")
    if folder == Path("common"):
        part = Path(name).stem
        if part not in COMMON:
            return [f"csrc/{path} has no row: add it here and to docs/architecture.md, with its arrows"]
        for header in includes(source):
            other = Path(header).stem
            framework = header.startswith(FRAMEWORKS + CUDA) and not header.startswith(COMMON_MAY.get(part, ()))
            if framework or header.startswith("ops/") or (other in COMMON and other not in COMMON[part].split()):
                found.append(f"csrc/{path} must not include {header}")
    if folder.parts[:1] == ("ops",):
        torch_free = not name.endswith(("_torch.cpp", "_torch.h")) and path != "ops/library.cpp"
        for header in includes(source):
            other_op = re.match(r"(?:ops/|\.\./)(\w+)/", header)
            knows_torch = header.startswith(FRAMEWORKS) or header in ("common/layout.h", "common/cuda_launch.h")
            if (torch_free and knows_torch) or (other_op and other_op[1] not in (folder.name, "common")):
                found.append(f"csrc/{path} must not include {header}")
    return found


SOURCES = sorted(str(p.relative_to(CSRC)) for p in CSRC.rglob("*") if p.suffix in {".h", ".cpp", ".cu", ".cuh"})


@pytest.mark.parametrize("path", SOURCES)
def test_source_keeps_to_its_arrows(path: str) -> None:
    assert include_violations((CSRC / path).read_text(encoding="utf-8"), path) == []


@pytest.mark.parametrize(
    ("path", "line"),
    [
        ("solver/problem.h", '#include "chain.h"'),
        ("solver/dominance.cpp", '#include "exact.h"'),
        ("solver/exact.cpp", "#include <torch/torch.h>"),
        ("solver/front.cpp", "#  include <Python.h>"),
        ("solver/bound.cpp", "#include <chrono>"),
        ("solver/bindings.cpp", "#include <cuda_runtime.h>"),
        ("solver/annealing.cpp", ""),
        ("ops/mbconv/mbconv_cpu.cpp", "#include <ATen/ATen.h>"),
        ("ops/mbconv/mbconv_cpu.cpp", '#include "common/layout.h"'),
        ("ops/mbconv/expansion.h", "#include <c10/util/Half.h>"),
        ("common/low_precision.h", "#include <c10/util/Half.h>"),
        ("common/cpu_target.h", '#include "common/layout.h"'),
        ("common/cuda_utils.cuh", "#include <c10/cuda/CUDAStream.h>"),
        ("common/layout.h", "#include <cuda_runtime.h>"),
        ("common/strings.h", ""),
        ("ops/mbconv/mbconv_cuda.h", "#include <c10/cuda/CUDAStream.h>"),
        ("ops/mbconv/mbconv_cuda.cuh", '#include "ops/feature_mse/feature_mse.h"'),
    ],
)
def test_planted_include_is_caught(path: str, line: str) -> None:
    assert len(include_violations(f"#include <vector>\n{line}\n", path)) == 1


def test_solver_parts_have_no_circle() -> None:
    assert_no_circle(SOLVER)
