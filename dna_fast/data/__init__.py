"""Images from a folder to normalised batches: index, splits, transforms, the DALI loader and the embedded digits.

Names load on first use, so that importing this package loads neither torch nor DALI.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dna_fast.data.dali import DaliLoader
    from dna_fast.data.digits import digits_transforms, write_digits
    from dna_fast.data.errors import DataError
    from dna_fast.data.index import ImageIndex
    from dna_fast.data.loader import Batch, Loader
    from dna_fast.data.splits import class_balanced_split
    from dna_fast.data.transforms import EvalTransform, TrainTransform

_HOMES = {
    "Batch": "loader",
    "DaliLoader": "dali",
    "DataError": "errors",
    "EvalTransform": "transforms",
    "ImageIndex": "index",
    "Loader": "loader",
    "TrainTransform": "transforms",
    "class_balanced_split": "splits",
    "digits_transforms": "digits",
    "write_digits": "digits",
}

__all__ = [
    "Batch",
    "DaliLoader",
    "DataError",
    "EvalTransform",
    "ImageIndex",
    "Loader",
    "TrainTransform",
    "class_balanced_split",
    "digits_transforms",
    "write_digits",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOMES])
