"""The options that the benches share, and numbers within limits for argparse."""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable


def add_runs(parser: argparse.ArgumentParser) -> None:
    """``--runs``: how often it is measured; the figures are medians."""
    parser.add_argument("--runs", type=count(1, 100), default=5, metavar="N", help="how often (default: 5)")


def count(low: int, high: int) -> Callable[[str], int]:
    """A whole number from ``low`` to ``high``, for argparse's ``type``."""

    def read(text: str) -> int:
        try:
            value = int(text)
        except ValueError as error:
            raise argparse.ArgumentTypeError(f"{text!r} is no whole number") from error
        if not low <= value <= high:
            raise argparse.ArgumentTypeError(f"{value} is not within {low} to {high}")
        return value

    return read


def number(low: float, high: float) -> Callable[[str], float]:
    """A number from ``low`` to ``high``, for argparse's ``type``."""

    def read(text: str) -> float:
        try:
            value = float(text)
        except ValueError as error:
            raise argparse.ArgumentTypeError(f"{text!r} is no number") from error
        if math.isnan(value) or not low <= value <= high:
            raise argparse.ArgumentTypeError(f"{value:g} is not within {low:g} to {high:g}")
        return value

    return read
