"""Finds the file behind a decoder's error, which names none."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable

from dna_fast.data.errors import DataError
from dna_fast.data.index import ImageIndex


def explain(
    error: Exception, index: ImageIndex, positions: Iterable[int], decode_one: Callable[[int], None]
) -> DataError:
    """Looks at the images of a failed batch, first with PIL, which says most, then with the decoder itself.

    Args:
        error: what the decoder raised.
        positions: the images that were being decoded.
        decode_one: decodes a single image the way the failed pipeline did; raises where it cannot.

    Returns:
        An error that names the first damaged file and says what to do.
    """
    positions = list(positions)
    for position in positions:
        if (fault := _fault(index, position)) is not None:
            return DataError(
                f"loader: cannot decode {index.path(position)}: {fault}; "
                'replace or remove the file and scan the folder again (ImageIndex.scan(..., on_bad="skip") leaves out '
                "files without a readable header)"
            )
    for position in positions:
        try:
            decode_one(position)
        except RuntimeError as own_error:
            return DataError(
                f"loader: DALI cannot decode {index.path(position)}, though PIL can: {last_line(own_error)}; "
                "save the image anew as an RGB JPEG or remove it, and scan the folder again"
            )
    names = f"{index.path(positions[0])} to {index.path(positions[-1])}" if positions else "no images"
    return DataError(
        f"loader: DALI failed on a batch of {len(positions)} images ({names}), yet each decodes alone: "
        f"{last_line(error)}; try a smaller batch_size or fewer threads"
    )


def _fault(index: ImageIndex, position: int) -> str | None:
    """What PIL finds wrong with a file, or None."""
    from PIL import Image

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about metadata; only pixels matter here
            with Image.open(index.path(position)) as image:
                image.load()
                size = image.size
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        return str(error).replace(f" {index.path(position)!r}", "")
    expected = (int(index.widths[position]), int(index.heights[position]))
    if size != expected:
        return f"it was {expected[0]} x {expected[1]} pixels when it was scanned and is {size[0]} x {size[1]} now"
    return None


def last_line(error: Exception) -> str:
    """DALI's messages are pages of stack trace around one line that matters; returns the line that says `Error`."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    telling = [line for line in lines if "rror" in line and not line.startswith(("Critical", "Error in", "Error when"))]
    return (telling or lines or [type(error).__name__])[0]
