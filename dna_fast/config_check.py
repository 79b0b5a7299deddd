"""What can be wrong with a configuration, all of it at once, as far as it can be seen before anything is trained."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from dna_fast.config import ConfigError, RunConfig, blamed, read_given

if TYPE_CHECKING:
    from torch import nn


def problems(path: Path, overrides: Sequence[str] = (), *, quick: bool = False) -> list[str]:
    """Everything that is wrong with a configuration, a line each, "key: problem"; empty where nothing is.

    Args:
        path: a YAML file.
        overrides: as `load_config` takes them.
        quick: look at the file alone: not at paths, and load neither torch nor timm.
    """
    try:
        data, given = read_given(path, overrides)
        found = RunConfig.problems(data)
        if not found and not quick:
            config = RunConfig.from_mapping(data)
            found = [*_path_problems(config), *_space_problems(config), *_teacher_problems(config)]
    except (OSError, ValueError) as error:
        return [str(error).removeprefix(f"{path}: ")]
    return [_line(error, blamed(error, path, given), path) for error in found]


def _line(error: ConfigError, source: str, path: Path) -> str:
    return str(error) if source == str(path) else f"{source}: {error}"


def _path_problems(config: RunConfig) -> Iterator[ConfigError]:
    data = config.data
    if data.kind == "folder" and data.root is not None:
        for key, folder in (("data.root", "train"), ("data.eval_dir", data.eval_dir)):
            if not Path(data.root).is_dir():
                yield ConfigError("data.root", f"no such directory: {data.root}; give the one that holds train/")
                break
            yield from _folder_problems(key, Path(data.root) / folder, config.search_space().frame.num_classes)
    checkpoint = config.teacher.checkpoint
    if checkpoint is not None and not Path(checkpoint).is_file():
        yield ConfigError("teacher.checkpoint", f"no such file: {checkpoint}; give a file of weights, or null")


def _folder_problems(key: str, folder: Path, num_classes: int) -> Iterator[ConfigError]:
    if not folder.is_dir():
        yield ConfigError(key, f"no such directory: {folder}; expected a folder per class in it")
        return
    classes = sum(entry.is_dir() and not entry.name.startswith(".") for entry in os.scandir(folder))
    if classes != num_classes:
        expected = f"expected {num_classes} class folders as space.frame.num_classes says, got {classes}"
        yield ConfigError(key, f"{expected} in {folder}; change the space's frame.num_classes, or the data")


def _space_problems(config: RunConfig) -> Iterator[ConfigError]:
    if config.supernet.boundary == "adapter" and (found := config.search_space().fold_problems()):
        yield ConfigError("supernet.boundary", f"adapters cannot be folded: {'; '.join(found)}; use boundary: wide")


def _teacher_problems(config: RunConfig) -> Iterator[ConfigError]:
    """Builds the teacher with random weights, and cuts it as the run would: no weights are downloaded."""
    if missing := [name for name in ("torch", "timm") if importlib.util.find_spec(name) is None]:
        problem = (
            f"cannot be checked without {' and '.join(missing)}; pip install 'dna_fast[torch]', or check with --quick"
        )
        yield ConfigError("teacher", problem)
        return
    try:
        model = _teacher(config)
    except ValueError as error:
        checkpoint = config.teacher.checkpoint is not None and "checkpoint" in str(error)
        key = "arch" if config.teacher.arch is not None else "checkpoint" if checkpoint else "model"
        yield ConfigError(f"teacher.{key}", str(error))
        return
    from dna_fast.teacher import Teacher, propose_cuts

    space = config.search_space()
    size, sizes = space.frame.resolution, tuple(space.out_size(b) for b in range(len(space.blocks)))
    try:
        cuts = config.teacher.cuts or propose_cuts(model, len(sizes), (3, size, size), sizes)
        Teacher(model, cuts, input_size=(3, size, size), bn=config.teacher.bn, fused=False).check_shapes(sizes)
    except ValueError as error:
        yield ConfigError("teacher.cuts", str(error))


def _teacher(config: RunConfig) -> nn.Module:
    from dna_fast.teacher import build_efficientnet, load_teacher

    teacher = config.teacher
    if teacher.arch is not None:
        return build_efficientnet(**teacher.arch, num_classes=config.search_space().frame.num_classes)
    checkpoint = teacher.checkpoint if teacher.checkpoint is not None and Path(teacher.checkpoint).is_file() else None
    return load_teacher(teacher.model, pretrained=False, checkpoint=checkpoint)
