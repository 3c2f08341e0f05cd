"""The options that the benches share, and numbers within limits for argparse."""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable
from importlib.util import find_spec

from plugmeter.bench.broker import Broker
from plugmeter.bench.daemon import controller_command, plugmeter


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


def add_controller(parser: argparse.ArgumentParser) -> None:
    """``--controller``: another one than ``plugmeter controller serve``."""
    parser.add_argument(
        "--controller",
        metavar="COMMAND",
        help="another controller than plugmeter's with SQLite: a command with {port} and {folder} in it",
    )


def controller(args: argparse.Namespace, broker: Broker, notes: list[str]) -> tuple[str, list[str]]:
    """Its name and command. Where there is none (a device's binary), one who acknowledges and stores
    nothing takes its place, and ``notes`` say so."""
    installed = find_spec("plugmeter.commands.controller") is not None
    command = controller_command(args.controller, broker.port, broker.folder, installed=installed)
    if command is not None:
        return "controller", command
    notes.append("The controller is not in this plugmeter: acknowledged by one who stores nothing.")
    return "acknowledger", acknowledger(broker)


def acknowledger(broker: Broker) -> list[str]:
    """The command of one who acknowledges and stores nothing."""
    return plugmeter("bench", "telemetry", "--here", f'{{"role": "acknowledger", "port": {broker.port}}}')
