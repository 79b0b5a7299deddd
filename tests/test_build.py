"""What CMakeLists.txt makes of nvcc, torch and DNA_FAST_CUDA: built, not built and why, or an error in words.

Most tests only configure, for a torch and an nvcc that are a few lines of text. They share one build folder, so that an
answer which outlived its reason would show.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
FACTS = """
import sys
from pathlib import Path
import torch
from dna_fast.ops import _library
path = Path(sys.argv[1])
print(_library.built_with(path) == torch.__version__, _library.cuda_kernels(path), sep="\\n")
"""


def tool(name: str) -> str:
    path = shutil.which(name, path=str(Path(sys.executable).parent)) or shutil.which(name)
    if path is None:
        pytest.skip(f"needs {name}, which was not found; run: pip install {name}")
    return path


def path_without_nvcc(folder: Path) -> str:
    """PATH, but with links to all else in place of a directory that holds nvcc."""
    kept = []
    for number, directory in enumerate(os.environ["PATH"].split(os.pathsep)):
        if not Path(directory, "nvcc").exists():
            kept.append(directory)
            continue
        links = folder / f"path{number}"
        links.mkdir()
        for file in Path(directory).iterdir():
            if file.name != "nvcc":
                (links / file.name).symlink_to(file)
        kept.append(str(links))
    return os.pathsep.join(kept)


class Builder:
    """Configures into one folder, for a torch of any kind and with an nvcc of any kind."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.build = folder / "build"
        self.without_nvcc = path_without_nvcc(folder)

    def torch(self, cuda: str | None) -> Path:
        """A torch that knows what CMake asks it; the folder it lies in."""
        folder = self.folder / f"torch_{cuda}"
        package = folder / "torch"
        package.mkdir(parents=True, exist_ok=True)
        (package / "version.py").write_text(f"cuda = {cuda!r}\n")
        (package / "__init__.py").write_text(
            "from torch import version\n__version__ = '2.99.0'\ndef compiled_with_cxx11_abi():\n    return True\n"
        )
        return folder

    def nvcc(self, says: str) -> str:
        """PATH with an nvcc that says this of its version and compiles nothing."""
        folder = self.folder / f"nvcc_{abs(hash(says))}"
        folder.mkdir(exist_ok=True)
        script = folder / "nvcc"
        script.write_text(f'#!/bin/sh\ntest "$1" = --version && echo "{says}" && exit 0\nexit 1\n')
        script.chmod(0o755)
        return os.pathsep.join([str(folder), self.without_nvcc])

    def __call__(
        self, *definitions: str, cuda: str | None = "13.2", path: str | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Configures; the definitions come after defaults, which are given every time as setup.py does."""
        defaults = ["DNA_FAST_TORCH=ON", "DNA_FAST_CUDA=auto", "DNA_FAST_CUDA_ARCHS=80;90"]
        defaults += [f"CMAKE_MAKE_PROGRAM={tool('ninja')}", f"Python_EXECUTABLE={sys.executable}"]
        environment = {**os.environ, "PATH": path or self.without_nvcc, "PYTHONPATH": str(self.torch(cuda))}
        return subprocess.run(
            [tool("cmake"), "-S", ROOT, "-B", self.build, "-G", "Ninja"]
            + [f"-D{definition}" for definition in [*defaults, *definitions]],
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )

    def rules(self) -> str:
        return (self.build / "build.ninja").read_text()


@pytest.fixture(scope="module")
def configure(tmp_path_factory: pytest.TempPathFactory) -> Builder:
    return Builder(tmp_path_factory.mktemp("build"))


def said(done: subprocess.CompletedProcess[str]) -> str:
    """What CMake printed, its line breaks undone."""
    return re.sub(r"\s+", " ", done.stdout + done.stderr)


NVCC_12 = "Cuda compilation tools, release 12.4, V12.4.131"
NVCC_13 = "Cuda compilation tools, release 13.0, V13.0.88"
# name -> (torch's CUDA version, what nvcc says or None for no nvcc, DNA_FAST_CUDA, the reason)
NOT_BUILT = {
    "off": ("13.2", NVCC_13, "off", "DNA_FAST_CUDA=off"),
    "off without nvcc": ("13.2", None, "off", "DNA_FAST_CUDA=off"),
    "no nvcc": ("13.2", None, "auto", "no nvcc on PATH"),
    "torch for the CPU": (None, NVCC_13, "auto", "torch 2.99.0 is built for the CPU only"),
    "other major version": (
        "13.2",
        NVCC_12,
        "auto",
        "nvcc 12.4.131 and the CUDA 13.2 of torch differ in their major version",
    ),
    # 13.0 and 13.2 go together, so the next question is asked.
    "nvcc does not compile": (
        "13.2",
        NVCC_13,
        "auto",
        "nvcc 13.0.88 cannot compile an empty kernel with the C++ compiler",
    ),
    "nvcc without version": ("13.2", "hello", "auto", "nvcc --version names no release"),
}


@pytest.mark.parametrize("case", NOT_BUILT)
def test_not_built_and_why(case: str, configure: Builder) -> None:
    cuda, nvcc, wanted, reason = NOT_BUILT[case]
    path = None if nvcc is None else configure.nvcc(nvcc)
    done = configure(f"DNA_FAST_CUDA={wanted}", cuda=cuda, path=path)
    assert done.returncode == 0, done.stderr
    assert re.search(rf"-- CUDA kernels: not built, (\S*/)?{re.escape(reason)} ", said(done))
    assert ".cu.o" not in configure.rules()
    assert "feature_mse_composed_torch.cpp.o" in configure.rules()
    assert "feature_mse_cuda_torch.cpp.o" not in configure.rules()
    assert "CMAKE_CUDA_COMPILER" not in (configure.build / "CMakeCache.txt").read_text()


@pytest.mark.parametrize("case", [case for case, (_, _, wanted, _) in NOT_BUILT.items() if wanted == "auto"])
def test_insisting_where_it_cannot_be_built_is_an_error_in_words(case: str, configure: Builder) -> None:
    cuda, nvcc, _, reason = NOT_BUILT[case]
    done = configure("DNA_FAST_CUDA=on", cuda=cuda, path=None if nvcc is None else configure.nvcc(nvcc))
    assert done.returncode != 0
    assert re.search(
        rf"DNA_FAST_CUDA=on: expected nvcc and a torch of one CUDA major version, but (\S*/)?{re.escape(reason)}; mend",
        said(done),
    )


REFUSED = {
    "unknown word": (["DNA_FAST_CUDA=yes"], 'DNA_FAST_CUDA: expected auto, on or off, got "yes"; unset it'),
    "architecture with a dot": (
        ["DNA_FAST_CUDA_ARCHS=8.0"],
        'expected compute capabilities without dot, as in 80;90, got "8.0"',
    ),
    "no architecture": (["DNA_FAST_CUDA_ARCHS="], "expected compute capabilities without dot"),
    "no torch": (
        ["DNA_FAST_TORCH=OFF", "DNA_FAST_CUDA=on"],
        "DNA_FAST_CUDA=on: expected a torch to build for, found none; install torch",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refusal_in_words(case: str, configure: Builder) -> None:
    definitions, words = REFUSED[case]
    done = configure(*definitions)
    assert done.returncode != 0
    assert words in said(done)


def test_setup_passes_the_environment_on(tmp_path: Path) -> None:
    tool("cmake")
    for name, value in (("DNA_FAST_CUDA", "yes"), ("DNA_FAST_CUDA_ARCHS", "8.0")):
        done = subprocess.run(
            [sys.executable, "setup.py", "build_ext", "--build-temp", tmp_path, "--build-lib", tmp_path],
            cwd=ROOT,
            env={**os.environ, name: value},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode != 0
        assert re.search(rf'{name}: expected .*got "{re.escape(value)}"', said(done))


# ---- with the real tools ---------------------------------------------------------------------------------------------


def real_nvcc() -> str:
    """The version of this machine's nvcc."""
    if shutil.which("nvcc") is None:
        pytest.skip("needs nvcc")
    found = re.search(
        r"V([0-9.]+)", subprocess.run(["nvcc", "--version"], capture_output=True, text=True, check=True).stdout
    )
    assert found is not None
    return found[1]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("architectures", "flags"),
    [
        ("80;90", ["arch=compute_80,code=[sm_80]", "arch=compute_90,code=[compute_90,sm_90]"]),
        ("90", ["arch=compute_90,code=[compute_90,sm_90]"]),
    ],
)
def test_architectures_are_compiled_for(architectures: str, flags: list[str], tmp_path: Path) -> None:
    nvcc, configure = real_nvcc(), Builder(tmp_path)
    # Another minor version than nvcc's is fine.
    done = configure(f"DNA_FAST_CUDA_ARCHS={architectures}", cuda=f"{nvcc.split('.')[0]}.99", path=os.environ["PATH"])
    assert done.returncode == 0, done.stderr
    assert f"CUDA kernels: built with nvcc {nvcc} for {', '.join(architectures.split(';'))} and PTX of 90" in said(done)
    assert set(re.findall(r'"--generate-code=([^"]+)"', configure.rules())) == set(flags)


def build_and_ask(folder: Path, cuda: str) -> tuple[Path, list[str]]:
    """Builds `_C` for this Python's torch; the file, and what it says of itself."""
    ninja, build = tool("ninja"), folder / "build"
    definitions = {
        "DNA_FAST_TORCH": "ON",
        "DNA_FAST_CUDA": cuda,
        "DNA_FAST_WERROR": "ON",
        "DNA_FAST_OUTPUT_DIR": folder,
        "CMAKE_MAKE_PROGRAM": ninja,
        "Python_EXECUTABLE": sys.executable,
    }
    configure = [tool("cmake"), "-S", ROOT, "-B", build, "-G", "Ninja", *(f"-D{k}={v}" for k, v in definitions.items())]
    jobs = ["-j", os.environ["MAX_JOBS"]] if os.environ.get("MAX_JOBS") else []
    for command in (configure, [ninja, "-C", build, *jobs, "_C"]):
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
    (path,) = folder.glob("_C.*.so")
    facts = subprocess.run(
        [sys.executable, "-c", FACTS, path], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout
    return path, facts.splitlines()


def assert_runs_on_the_cpu(path: Path) -> None:
    code = (
        "import sys, torch; torch.ops.load_library(sys.argv[1]); x = torch.tensor([1.0, 2.0]); "
        "print(torch.ops.dna_fast.feature_mse(x, torch.zeros(2), False)[0].item())"
    )
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code, path], capture_output=True, text=True, check=True
    )
    assert done.stdout == "2.5\n"


@pytest.mark.slow
def test_a_build_without_cuda_runs_on_the_cpu(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    path, facts = build_and_ask(tmp_path, "off")
    assert facts == ["True", "not built, DNA_FAST_CUDA=off"]
    assert b"libcudart" not in path.read_bytes()
    assert_runs_on_the_cpu(path)


@pytest.mark.slow
def test_a_build_with_cuda_loads_without_a_gpu(tmp_path: Path) -> None:
    """It needs torch's runtime, which is loaded with torch, and holds code for both architectures."""
    nvcc, torch = real_nvcc(), pytest.importorskip("torch")
    if torch.version.cuda is None or torch.version.cuda.split(".")[0] != nvcc.split(".")[0]:
        pytest.skip(f"needs a torch of the CUDA major version of nvcc {nvcc}, got {torch.version.cuda}")
    path, facts = build_and_ask(tmp_path, "on")
    assert facts == ["True", f"built with nvcc {nvcc} for 80, 90 and PTX of 90"]
    assert re.search(rb"libcudart\.so\.\d+\0", path.read_bytes())
    assert_runs_on_the_cpu(path)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16", "float64"])
def test_kernels_access_memory_by_16_bytes(dtype: str, tmp_path: Path) -> None:
    """Seen in the PTX: every combination of an aligned kernel has such loads, and such stores with a gradient."""
    real_nvcc()
    ptx = tmp_path / "kernels.ptx"
    source = ROOT / f"csrc/ops/feature_mse/feature_mse_cuda_{dtype}.cu"
    subprocess.run(
        ["nvcc", "-std=c++20", "-O3", "-arch=compute_80", "-ptx", f"-I{ROOT / 'csrc'}", source, "-o", ptx], check=True
    )
    kernels = [text for text in ptx.read_text().split(".entry ")[1:] if "10chunk_sums" in text.split("(")[0]]
    aligned = [text for text in kernels if re.search(r"Lb[01]ELb1EE", text.split("(")[0])]
    assert len(aligned) == len(kernels) / 2 == (2 if dtype == "float64" else 6)
    for text in aligned:
        with_gradient = "Lb1ELb1EE" in text.split("(")[0]
        assert re.search(r"ld\.global(\.nc)?\.v[24]\.[bfu](64|32)", text)
        assert bool(re.search(r"st\.global\.v[24]\.[bfu](64|32)", text)) == with_gradient
