"""``plugmeter runner``: the process in which the daemon makes a run. Not for people."""

from __future__ import annotations

import argparse
import contextlib
import os
import socket
import stat
from pathlib import Path

from plugmeter.errors import RigError, UsageError
from plugmeter.rigs import namespace

NAME = "runner"
HELP = "one run of the daemon, in a process of its own; started by plugmeter run"
EPILOG = """\
example:
  plugmeter runner --descriptor 3
      what to run comes over the socket 3, and so does all that is told of it: see runner/wire.py.
      For a run from the command line use: plugmeter measure

exit status: 0 the run is over (whatever it found), 1 it could not be made, 2 bad usage
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of ``plugmeter runner``."""
    wanted = parser.add_mutually_exclusive_group(required=True)
    wanted.add_argument("--descriptor", type=int, metavar="N", help="an inherited socket, by its number")
    wanted.add_argument(
        "--try-namespace",
        action="store_true",
        help="run nothing: print why the injected rig cannot have its namespace here, or nothing",
    )


def run(args: argparse.Namespace) -> int:
    """Serve one parent."""
    if args.try_namespace:
        return _try_namespace()
    from plugmeter.runner import child  # all that makes a run: not for a trial, which is waited for

    child.settle_signals()
    _take_name()
    with _socket(args.descriptor) as end:
        return child.serve(end)


def _try_namespace() -> int:
    try:
        namespace.enter()
    except RigError as error:
        print(error)
        return error.exit_status
    return 0


def _take_name() -> None:
    """So that reports, which list every uevent socket by its program, call ours plugmeter and not python."""
    with contextlib.suppress(OSError):  # a sandbox may forbid it; then it is called python
        Path("/proc/self/comm").write_text("plugmeter", encoding="ascii")


def _socket(number: int) -> socket.socket:
    try:
        if number < 0 or not stat.S_ISSOCK(os.fstat(number).st_mode):
            raise UsageError(f"--descriptor {number} is no socket; plugmeter run starts this command")
        os.set_inheritable(number, False)
    except OSError as error:
        raise UsageError(
            f"--descriptor {number}: {(error.strerror or '').lower()}; plugmeter run starts this command"
        ) from error
    return socket.socket(fileno=number)
