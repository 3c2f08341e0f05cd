"""Aligned columns for a terminal."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence


def table(
    header: Sequence[str], rows: Sequence[Sequence[str]], *, left: int = 1, indent: int = 2, width: int = 80
) -> list[str]:
    """Lines of a table: the first ``left`` columns to the left, the others to the right.

    Where it would be wider than ``width``, the first column is shortened (with …), never a figure.
    """
    cells = [list(header), *[list(row) for row in rows]]
    widths = [max(columns(row[k]) for row in cells) for k in range(len(header))]
    surplus = indent + sum(widths) + 2 * (len(widths) - 1) - width
    if surplus > 0:
        widths[0] = max(6, widths[0] - surplus)
    lines = []
    for row in cells:
        parts = [
            _fit(cell, widths[k]) if k < left else " " * (widths[k] - columns(cell)) + cell
            for k, cell in enumerate(row)
        ]
        lines.append((" " * indent + "  ".join(parts)).rstrip())
    return lines


def columns(text: str) -> int:
    """How many columns of a terminal a text takes."""
    return sum(
        0 if unicodedata.combining(c) else 2 if unicodedata.east_asian_width(c) in "WF" else 1 for c in text
    )


def _fit(text: str, width: int) -> str:
    if columns(text) > width:
        while columns(text) > width - 1:
            text = text[:-1]
        text += "…"
    return text + " " * (width - columns(text))
