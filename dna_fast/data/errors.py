"""The error of a data set whose files are not what they should be."""

from __future__ import annotations


class DataError(RuntimeError):
    """A file of the data set cannot be used; the message names it and says what to do."""
