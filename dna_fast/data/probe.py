"""Finds the files behind a decoder's error, which names none."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable

from dna_fast.data.index import ImageIndex


def find_faults(index: ImageIndex, positions: Iterable[int], decode_one: Callable[[int], None]) -> dict[int, str]:
    """Looks at the images of a failed batch, first with PIL, which says most, then with the decoder itself.

    Args:
        positions: the images that were being decoded.
        decode_one: decodes a single image the way the failed pipeline did; raises where it cannot.

    Returns:
        Position -> what is wrong, of every damaged file; empty where each decodes alone.
    """
    positions = list(positions)
    faults = {position: fault for position in positions if (fault := _fault(index, position)) is not None}
    if faults:
        return faults
    for position in positions:
        try:
            decode_one(position)
        except RuntimeError as error:
            faults[position] = f"PIL can decode it, DALI cannot: {last_line(error)}"
    return faults


def _fault(index: ImageIndex, position: int) -> str | None:
    """What PIL finds wrong with a file, or None."""
    from PIL import Image

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about metadata; only pixels matter here
            with Image.open(index.path(position)) as image:
                image.load()
                size = image.size
    except (OSError, ValueError, SyntaxError, EOFError, Image.DecompressionBombError) as error:
        return str(error).replace(f" {index.path(position)!r}", "") or type(error).__name__
    expected = (int(index.widths[position]), int(index.heights[position]))
    if size != expected:
        return f"it was {expected[0]} x {expected[1]} pixels when it was scanned and is {size[0]} x {size[1]} now"
    return None


def last_line(error: Exception) -> str:
    """DALI's messages are pages of stack trace around one line that matters; returns the line that says `Error`."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    telling = [line for line in lines if "rror" in line and not line.startswith(("Critical", "Error in", "Error when"))]
    return (telling or lines or [type(error).__name__])[0]
