"""For a machine with a GPU and little time: builds the compiled modules for that GPU, runs every GPU test, measures the CUDA kernels.

    python -m benchmarks.gpu_check OUT [--minutes 8]        or: make gpu-check OUT=dir

Installs nothing: this Python must have torch (CUDA), cmake, ninja, pybind11, numpy, pytest and timm. OUT gets summary.json, which is
written again after every step, and the log of each; a step that fails does not stop the others, unless it is the build.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
TESTS = ("tests/ops/test_mbconv_cuda.py", "tests/ops/test_feature_mse.py")
FACTS = """
import json, torch
p = torch.cuda.get_device_properties(0)
print(json.dumps({"gpu": p.name, "capability": f"{p.major}{p.minor}", "processors": p.multi_processor_count,
                  "torch": torch.__version__, "cuda": torch.version.cuda}))
"""


def main() -> int:
    parser = argparse.ArgumentParser(description="build, test and measure the CUDA kernels")
    parser.add_argument("out", type=Path)
    parser.add_argument("--minutes", type=float, default=8.0, help="no new measurement is begun behind them")
    arguments = parser.parse_args()
    deadline = time.monotonic() + 60 * arguments.minutes
    out = arguments.out.resolve()
    out.mkdir(parents=True, exist_ok=True)
    summary: dict[str, Any] = {"steps": {}}

    facts = subprocess.run([sys.executable, "-c", FACTS], capture_output=True, text=True, check=False)
    if facts.returncode != 0:
        print(f"gpu-check: expected a torch that finds a GPU, got:\n{facts.stderr[-2000:]}", file=sys.stderr)
        return 2
    summary["machine"] = json.loads(facts.stdout)
    summary["machine"]["nvcc"] = _said(["nvcc", "--version"]).splitlines()[-1:]
    summary["revision"] = _said(["git", "-C", str(ROOT), "rev-parse", "HEAD"]) or "unknown: no git here"

    environment = os.environ | {"DNA_FAST_CUDA": "on", "DNA_FAST_CUDA_ARCHS": summary["machine"]["capability"]}
    python = [sys.executable]
    steps = {
        "build": [*python, "setup.py", "build_ext", "--inplace"],
        "tests": [*python, "-m", "pytest", *TESTS, "-m", "gpu", "--require-gpu", "-q", f"--junitxml={out}/tests.xml"],
        "layers": [*python, "-m", "benchmarks.gpu_layers", str(out / "layers.json")],
    }
    for name, command in steps.items():
        left_s = deadline - time.monotonic()
        if name == "layers":
            command.append(str(max(left_s - 10.0, 0.0)))
        began = time.monotonic()
        with (out / f"{name}.log").open("w") as log:
            done = subprocess.run(command, cwd=ROOT, env=environment, stdout=log, stderr=subprocess.STDOUT, check=False)
        summary["steps"][name] = {"exit": done.returncode, "seconds": round(time.monotonic() - began, 1)}
        (out / "summary.json").write_text(json.dumps(summary, indent=1) + "\n")
        print(
            f"{name}: exit {done.returncode} after {time.monotonic() - began:.0f} s, see {out / name}.log", flush=True
        )
        if name == "build" and done.returncode != 0:
            return 1
    return int(any(step["exit"] for step in summary["steps"].values()))


def _said(command: list[str]) -> str:
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return ""


if __name__ == "__main__":
    sys.exit(main())
