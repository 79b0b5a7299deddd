"""What the CUDA assembler says of every kernel: registers, shared memory, spills. Part of the build, see CMakeLists.txt.

    ptxas_report.py compile FOLDER nvcc ...      runs the compiler and keeps its report in FOLDER
    ptxas_report.py collect FOLDER NVCC FILE     all reports of FOLDER into one JSON file

The file holds {"nvcc": version, "kernels": {architecture: {kernel: {"registers", "static_shared_bytes", "stack_bytes",
"spill_bytes"}}}}. tests/test_ptxas.py compares it with the committed tests/ptxas.json.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

_KERNEL = re.compile(r"Compiling entry function '(\w+)' for '(\w+)'")
_STACK = re.compile(r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads")
_USED = re.compile(r"Used (\d+) registers")
_SHARED = re.compile(r"(\d+) bytes smem")
_ARGUMENTS = (
    (r"L[bi](\d+)E", lambda m: m[1]),
    (r"13__nv_bfloat16", lambda m: "bfloat16"),
    (r"6__half", lambda m: "float16"),
    (r"f", lambda m: "float32"),
    (r"d", lambda m: "float64"),
    (r"S\d*_", lambda m: "same"),
)


def readable(symbol: str) -> str:
    """_ZN8dna_fast6mbconv13expand_kernelI6__halfLi7ELi2EEEv... -> mbconv expand_kernel<float16, 7, 2>."""
    rest, names = symbol.removeprefix("_ZN"), []
    while found := re.match(r"\d+", rest):
        end = found.end() + int(found[0])
        names.append(rest[found.end() : end])
        rest = rest[end:]
    arguments = []
    if rest.startswith("I"):
        rest = rest[1:]
        while not rest.startswith("E"):
            for pattern, name in _ARGUMENTS:
                if found := re.match(pattern, rest):
                    arguments.append(name(found))
                    rest = rest[found.end() :]
                    break
            else:
                raise ValueError(f"{symbol}: expected a known template argument, got {rest}")
    listed = f"<{', '.join(arguments)}>" if arguments else ""
    return " ".join(names[1:]) + listed


def parse(report: str) -> dict[str, dict[str, dict[str, int]]]:
    """Architecture -> kernel -> numbers, of one compiler's output."""
    kernels: dict[str, dict[str, dict[str, int]]] = {}
    for part in report.split("ptxas info")[1:]:
        if found := _KERNEL.search(part):
            entry: dict[str, int] = {}
            kernels.setdefault(found[2], {})[readable(found[1])] = entry
        if found := _STACK.search(part):
            entry |= {"stack_bytes": int(found[1]), "spill_bytes": int(found[2]) + int(found[3])}
        if found := _USED.search(part):
            shared = _SHARED.search(part)
            entry |= {"registers": int(found[1]), "static_shared_bytes": int(shared[1]) if shared else 0}
    return kernels


def compile_and_keep(folder: Path, command: list[str]) -> int:
    """The compiler's exit status; what it says beyond the report goes where it would have gone."""
    is_compiling = "-c" in command
    done = subprocess.run(
        [*command, "--resource-usage"] if is_compiling else command, capture_output=True, text=True, check=False
    )
    sys.stdout.write(done.stdout)
    lines = done.stderr.splitlines(keepends=True)
    # The first line of a report says whose it is, the second begins otherwise.
    is_report = [line.startswith("ptxas info") or bool(_STACK.search(line)) for line in lines]
    sys.stderr.writelines(line for line, of_report in zip(lines, is_report, strict=True) if not of_report)
    if is_compiling and done.returncode == 0:
        folder.mkdir(parents=True, exist_ok=True)
        source = Path(command[command.index("-c") + 1]).name
        (folder / f"{source}.txt").write_text("".join(lines))
    return done.returncode


def collect(folder: Path, nvcc: str, file: Path) -> None:
    kernels: dict[str, dict[str, dict[str, int]]] = {}
    for report in sorted(folder.glob("*.txt")):
        for architecture, found in parse(report.read_text()).items():
            kernels.setdefault(architecture, {}).update(found)
    file.write_text(json.dumps({"nvcc": nvcc, "kernels": kernels}, indent=1, sort_keys=True) + "\n")


if __name__ == "__main__":
    if sys.argv[1] == "compile":
        sys.exit(compile_and_keep(Path(sys.argv[2]), sys.argv[3:]))
    collect(Path(sys.argv[2]), sys.argv[3], Path(sys.argv[4]))
