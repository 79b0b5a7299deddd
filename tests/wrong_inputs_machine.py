"""Wrong arrays and tensors for the Python API, and what the machine lacks; see wrong_inputs.py."""

from __future__ import annotations

import errno
import os
from typing import Any

import numpy as np
from wrong_inputs import Outcome, Place, fresh, without, wrong

ARRAYS, TENSORS, MACHINE = "Arrays for the search", "Tensors for the operators", "The machine"

LOSSES = [[0.4, 0.1], [0.2, 0.0]]
MACS = {"macs": [[1, 5], [2, 4]]}


# ---- arrays ----------------------------------------------------------------------------------------------------------


def called(
    what: str, name: str, *arguments: Any, words: tuple[str, ...], raises: str = "ValueError", **named: Any
) -> None:
    def provoke(place: Place) -> None:
        import dna_fast

        getattr(dna_fast, name)(*arguments, **named)

    wrong(ARRAYS, f"{name}: {what}", *words, code=raises)(provoke)


called("no blocks", "solve", [], {}, {}, words=("losses must hold at least one block",))
called("a block without candidates", "solve", [[0.1], []], {}, {}, words=("losses[1] has no candidates",))
called("text for losses", "solve", [["a"]], {}, {}, words=("losses[0] must be real numbers",), raises="TypeError")
called("a loss that is nan", "solve", [[0.1, np.nan]], {}, {}, words=("losses of block 0, candidate 1 must be finite",))
called(
    "costs of fewer blocks", "solve", LOSSES, {"macs": [[1, 5]]}, {}, words=("cost 'macs'", "one array per block (2")
)
called(
    "costs of other candidates",
    "solve",
    LOSSES,
    {"macs": [[1], [2, 4]]},
    {},
    words=("cost 'macs'[0] must be [2]", "(1,)"),
)
called(
    "costs that are fractions",
    "solve",
    LOSSES,
    {"ms": [[0.5, 1], [1, 2]]},
    {},
    words=("cost 'ms'[0] must be integers", "round it"),
    raises="TypeError",
)
called(
    "a cost below zero",
    "solve",
    LOSSES,
    {"macs": [[1, -5], [2, 4]]},
    {},
    words=("cost 'macs' of block 0, candidate 1 must not be negative, got -5",),
)
called(
    "a budget on no cost",
    "solve",
    LOSSES,
    MACS,
    {"mac": 3},
    words=("budget 'mac' names no cost", "did you mean 'macs'?"),
)
called(
    "a budget that is a fraction",
    "solve",
    LOSSES,
    MACS,
    {"macs": 3.5},
    words=("budget 'macs' must be a whole number", "write 3"),
    raises="TypeError",
)
called("a budget upside down", "solve", LOSSES, MACS, {"macs": (5, 3)}, words=("lower <= upper", "swap them"))
called(
    "rows without labels",
    "solve",
    LOSSES,
    {"macs": [[1, 5], [[2, 4], [1, 1]]]},
    {},
    words=("cost 'macs'[1]", "check labels"),
)
called("labels of other candidates", "solve", LOSSES, MACS, {}, labels=[[1], [1, 2]], words=("labels[0] must be [2]",))
called("a method that there is not", "solve", LOSSES, MACS, {}, method="greedy", words=("method", "greedy", "beam"))
called(
    "a mask that leaves nothing",
    "solve",
    LOSSES,
    MACS,
    {},
    allowed=[[False, False], None],
    words=("allowed[0] leaves no candidate",),
)
called(
    "a mask of numbers",
    "solve",
    LOSSES,
    MACS,
    {},
    allowed=[[1, 0], None],
    words=("allowed[0] must be boolean",),
    raises="TypeError",
)
called("no threads", "solve_many", LOSSES, MACS, [{"macs": 7}], threads=0, words=("threads must be at least 1, got 0",))
called(
    "one budget instead of many",
    "solve_many",
    LOSSES,
    MACS,
    {"macs": 7},
    words=("budgets must be a list",),
    raises="TypeError",
)
called(
    "an epsilon below zero", "pareto_front", LOSSES, MACS, epsilon=-1.0, words=("epsilon must be a finite number >= 0",)
)
called(
    "a front that is too large",
    "pareto_front",
    LOSSES,
    MACS,
    max_points=1,
    words=("max_points",),
    raises="RuntimeError",
)
called("a choice of fewer blocks", "explain", LOSSES, MACS, {"macs": 7}, choice=[1], words=("choice", "one candidate"))
called("a preset that there is not", "preset", "DNA ", words=("'DNA '", "dna, digits"))


# ---- tensors ---------------------------------------------------------------------------------------------------------


@wrong(TENSORS, "feature_mse: two shapes", "must have one shape, got [2, 3] and [3, 2]", code="ValueError")
def _(place: Place) -> None:
    import torch

    from dna_fast.ops import feature_mse

    feature_mse(torch.zeros(2, 3), torch.zeros(3, 2))


@wrong(TENSORS, "feature_mse: whole numbers", "feature_mse", "float32", code="TypeError")
def _(place: Place) -> None:
    import torch

    from dna_fast.ops import feature_mse

    feature_mse(torch.zeros(2, dtype=torch.int64), torch.zeros(2))


@wrong(TENSORS, "mbconv: a kernel that there is not", "kernel must be one of 3, 5, 7, got 4", code="ValueError")
def _(place: Place) -> None:
    from dna_fast.ops.mbconv import MBConvShape

    MBConvShape(8, 16, 8, kernel=4, stride=1)


@wrong(TENSORS, "mbconv: a tensor that is not channels-last", "channels_last", "x", code="ValueError")
def _(place: Place) -> None:
    import torch

    from dna_fast.ops.mbconv import Affine, MBConvShape, MBConvWeights, mbconv

    shape = MBConvShape(8, 16, 8, kernel=3, stride=1)
    weights = MBConvWeights.pack(shape, torch.zeros(16, 8, 1, 1), torch.zeros(16, 1, 3, 3), torch.zeros(8, 16, 1, 1))
    norms = [Affine(torch.zeros(1, n), torch.zeros(1, n)) for n in shape.norm_channels()]
    mbconv(torch.zeros(2, 8, 6, 6), weights, norms)


# ---- the machine -----------------------------------------------------------------------------------------------------


@wrong(MACHINE, "no torch", "torch", "is not installed; pip install 'dna_fast[torch]'")
def _(place: Place) -> Outcome:
    return fresh("rate", str(place.shared / "run"), before=without("torch", "timm"))


@wrong(MACHINE, "no PyYAML", "PyYAML", "not installed; pip install 'dna_fast[torch]'")
def _(place: Place) -> Outcome:
    return fresh("config", "show", "digits", before=without("yaml"))


@wrong(MACHINE, "no typer", "the command line needs typer", "pip install 'dna_fast[torch]'", code=1)
def _(place: Place) -> Outcome:
    return fresh("info", before=without("typer"))


@wrong(MACHINE, "no matplotlib", "matplotlib", "pip install 'dna_fast[report]'")
def _(place: Place) -> Outcome:
    arguments = place.search("--max", "macs=1G", "--plot", str(place.tmp / "front.png"))
    return fresh(*arguments, before=without("matplotlib"))


@wrong(MACHINE, "no DALI", "needs NVIDIA DALI", "pip install nvidia-dali", varies=r"(?<=DALI \().*(?=\); pip)")
def _(place: Place) -> list[str]:
    import sys

    for name in [name for name in sys.modules if name.split(".")[0] == "nvidia"]:
        place.patch.delitem(sys.modules, name)
    place.patch.setitem(sys.modules, "nvidia.dali", None)
    return place.train()


@wrong(MACHINE, "DNA_FAST_FORCE_ISA of a set that there is not", "DNA_FAST_FORCE_ISA", 'got "avx9"')
def _(place: Place) -> Outcome:
    return fresh("rate", str(place.run()), DNA_FAST_FORCE_ISA="avx9")


@wrong(MACHINE, "device: cuda without a GPU", "device: cuda was asked for", "dna-fast info")
def _(place: Place) -> list[str]:
    import torch

    place.patch.setattr(torch.cuda, "is_available", lambda: False)
    return place.train("device=cuda")


@wrong(MACHINE, "a torch other than the build's", "got one for torch", "build it again", code="RuntimeError")
def _(place: Place) -> None:
    from dna_fast.ops import _library

    place.patch.setattr(_library, "built_with", lambda path: "1.13.1")
    _library.load()


@wrong(MACHINE, "an output directory that must not be written", "new", "Permission denied", "choose another place")
def _(place: Place) -> list[str]:
    def refuse(self: Any, *arguments: Any, **named: Any) -> None:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(self))

    arguments = place.train()
    place.patch.setattr("pathlib.Path.mkdir", refuse)  # to root nothing is forbidden
    return arguments


@wrong(MACHINE, "a file where a directory is needed", "new", "choose another place")
def _(place: Place) -> list[str]:
    place.write("new", "a file")
    return place.train()


@wrong(
    MACHINE,
    "a full disk",
    "search.json",
    "No space left on device",
    "free some space",
    varies=r"(?<=device \().*(?= bytes)",
)
def _(place: Place) -> list[str]:
    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    place.patch.setattr(os, "fsync", full)
    return place.search("--max", "macs=1G")


@wrong(MACHINE, "too little memory for rating", "--max-memory", "bytes for one path")
def _(place: Place) -> list[str]:
    (place.run() / "ratings.npz").unlink()
    return ["rate", str(place.run()), "--max-memory", "1k"]


@wrong(MACHINE, "no memory left", "out of memory", "batch_size")
def _(place: Place) -> list[str]:
    def exhausted(*arguments: Any, **named: Any) -> None:
        raise MemoryError

    place.patch.setattr("dna_fast.query.solve", exhausted)
    return place.search()


@wrong(MACHINE, "Ctrl-C", "interrupted; what was finished is saved", "give the same command again", code=130)
def _(place: Place) -> list[str]:
    def interrupt(*arguments: Any) -> None:
        raise KeyboardInterrupt

    place.patch.setattr("dna_fast.query.answer", interrupt)
    return place.search()
