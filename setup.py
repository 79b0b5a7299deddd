"""Builds the compiled modules (one cmake configure and one ninja run) and ships configs/. Metadata is in pyproject.toml.

Works for ``pip install .``, ``pip install -e . --no-build-isolation`` and ``python setup.py build_ext --inplace``.
``DNA_FAST_CUDA`` (auto, on, off) and ``DNA_FAST_CUDA_ARCHS`` (e.g. ``80;90``) steer the CUDA kernels, ``MAX_JOBS`` limits
the parallel compilers; ``CI`` turns warnings into errors. CMakeLists.txt owns sources and flags.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext
from setuptools.command.build_py import build_py

ROOT = Path(__file__).resolve().parent
PACKAGE = "dna_fast"
# Without torch only the search is built. With build isolation there is none: hence --no-build-isolation.
WITH_TORCH = importlib.util.find_spec("torch") is not None
# Every module that CMakeLists.txt puts into DNA_FAST_OUTPUT_DIR.
MODULES = ("_solver", "_C") if WITH_TORCH else ("_solver",)

# Passed on from the environment.
CUDA_DEFAULTS = {"DNA_FAST_CUDA": "auto", "DNA_FAST_CUDA_ARCHS": "80;90"}


def find_tool(name: str) -> str:
    """The path of cmake or ninja: beside this interpreter first, as build isolation puts it there, then on PATH."""
    path = shutil.which(name, path=str(Path(sys.executable).parent)) or shutil.which(name)
    if path is None:
        raise RuntimeError(f"building {PACKAGE} needs {name}, which was not found; run: pip install {name}")
    return path


class CMakeBuild(build_ext):
    """Hands the whole build to CMake, whatever the number of modules."""

    def run(self) -> None:
        """Configures and builds once into the folder where setuptools expects the first module."""
        output = Path(self.get_ext_fullpath(self.extensions[0].name)).resolve().parent
        # Below build_temp, so that an isolated build and a build in place do not share a cache.
        build = (ROOT / self.build_temp / "cmake").resolve()
        build.mkdir(parents=True, exist_ok=True)
        ninja = find_tool("ninja")
        options = {
            "CMAKE_MAKE_PROGRAM": ninja,
            "CMAKE_BUILD_TYPE": "Release",
            "DNA_FAST_OUTPUT_DIR": str(output),
            "DNA_FAST_WERROR": "ON" if os.environ.get("CI") else "OFF",
            "DNA_FAST_TORCH": "ON" if WITH_TORCH else "OFF",
            "Python_EXECUTABLE": sys.executable,
        }
        # Given anew every time: CMake would remember what an earlier build was told.
        options |= {name: os.environ.get(name) or default for name, default in CUDA_DEFAULTS.items()}
        definitions = [f"-D{key}={value}" for key, value in options.items()]
        subprocess.run([find_tool("cmake"), "-S", str(ROOT), "-B", str(build), "-G", "Ninja", *definitions], check=True)
        subprocess.run([ninja, "-C", str(build), *self.job_options()], check=True)
        self.check_outputs()

    def job_options(self) -> list[str]:
        """``-j MAX_JOBS`` if it is set; ninja chooses well otherwise."""
        jobs = os.environ.get("MAX_JOBS", "")
        if not jobs:
            return []
        if not jobs.isdigit() or int(jobs) < 1:
            raise ValueError(f"MAX_JOBS must be a positive whole number, got {jobs!r}; unset it or set it to e.g. 2")
        return ["-j", jobs]

    def check_outputs(self) -> None:
        """A module with another file name than setuptools expects would be left out of the wheel silently."""
        for extension in self.extensions:
            path = Path(self.get_ext_fullpath(extension.name))
            if not path.exists():
                raise RuntimeError(f"the build made no {path}; compare MODULES in setup.py with CMakeLists.txt")


class BuildWithConfigs(build_py):
    """Ships configs/*.yaml inside the package, as dna_fast/configs/: git keeps one copy, where people look for it."""

    def config_mapping(self) -> dict[str, str]:
        """Copy in the build folder -> source, relative to the root as setuptools wants it."""
        sources = sorted(ROOT.glob("configs/*.yaml"))
        if not sources:
            raise RuntimeError(f"expected {ROOT / 'configs'}/*.yaml, got none: the demo has no configuration")
        target = Path(self.build_lib, PACKAGE, "configs")
        return {str(target / path.name): str(path.relative_to(ROOT)) for path in sources}

    def run(self) -> None:
        """An editable install copies nothing: dna_fast.config finds the checkout's."""
        super().run()
        if not self.editable_mode:
            for target, source in self.config_mapping().items():
                self.mkpath(str(Path(target).parent))
                self.copy_file(source, target)

    def get_outputs(self, include_bytecode: bool = True) -> list[str]:
        """With the configurations; an editable install lists the keys of the mapping."""
        outputs = super().get_outputs(include_bytecode)
        return outputs if self.editable_mode else [*outputs, *self.config_mapping()]

    def get_output_mapping(self) -> dict[str, str]:
        """With the configurations, for editable installs that link every file (editable_mode=strict)."""
        return {**super().get_output_mapping(), **self.config_mapping()}


# An Extension without sources: it only tells setuptools that the wheel is tied to a platform and what it holds.
setup(
    ext_modules=[Extension(f"{PACKAGE}.{module}", sources=[]) for module in MODULES],
    cmdclass={"build_ext": CMakeBuild, "build_py": BuildWithConfigs},
)
