"""The console script: finds the command, runs it, and turns every end of it into an exit status.

Start-up stays quick because only the module of the command that was named is imported; a command
module in turn imports what is heavy (matplotlib, say) only once it runs.
"""

from __future__ import annotations

import argparse
import difflib
import errno
import importlib
import io
import os
import select
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, NoReturn, Protocol, cast

from plugmeter import __version__
from plugmeter.errors import PlugmeterError, UsageError

if TYPE_CHECKING:
    from _typeshed import SupportsWrite

GROUPS: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("Measure", ("measure", "sweep", "selftest", "listeners")),
    ("Serve", ("run", "status", "outbox", "controller", "sign")),
    ("Read", ("replay", "compare")),
    ("Prepare", ("check", "advise")),
    ("Plugmeter itself", ("bench",)),
)
"""The commands as the help lists them. Each is a module of ``plugmeter.commands`` of that name."""

COMMANDS: tuple[str, ...] = tuple(name for _, names in GROUPS for name in names)

INTERNAL: tuple[str, ...] = ("runner",)
"""Commands that other commands start, and not people: the help does not list them."""

_EXAMPLES = """\
examples:
  plugmeter check --example > plugmeter.toml      a configuration with every key, documented
  plugmeter COMMAND --help                        what a command does, with examples of its own
"""

_INTERRUPTED = 130
"""128 + SIGINT, as shells have it."""

_READER_GONE = 141
"""128 + SIGPIPE, as shells have it."""


class CommandModule(Protocol):
    """What each module of ``plugmeter.commands`` has."""

    NAME: str
    HELP: str
    """One line, for the list of commands."""
    EPILOG: str
    """Examples and exit status, printed as it stands below the command's help."""

    def add_arguments(self, parser: argparse.ArgumentParser) -> None: ...

    def run(self, args: argparse.Namespace) -> int:
        """The exit status; raises PlugmeterError for what the user can mend."""
        ...


class Parser(argparse.ArgumentParser):
    """argparse with one line for a mistake, and no guessing of abbreviated options."""

    def __init__(self, *args: object, **kwargs: object) -> None:
        kwargs.setdefault("allow_abbrev", False)
        kwargs.setdefault("formatter_class", argparse.RawDescriptionHelpFormatter)
        super().__init__(*args, **kwargs)  # type: ignore[arg-type]  # argparse's own signature, passed on

    def error(self, message: str) -> NoReturn:
        command = self.prog.partition(" ")[2]
        where = f"{command}: " if command else ""
        raise UsageError(f"{where}{' '.join(message.split())}; see {self.prog} --help")

    def print_help(self, file: SupportsWrite[str] | None = None) -> None:
        (file or sys.stdout).write(self.format_help())  # argparse's own keeps silent about a full disk


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command line (without the program's name) and gives its exit status. Never raises for a user's
    mistake, an interrupt, or an output that cannot be written; a defect of ours keeps its traceback."""
    if sys.stdout is None:  # closed by our caller: what we say there is for nobody
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115  for as long as the process lives
    if sys.stderr is None:
        sys.stderr = open(os.devnull, "w")  # noqa: SIM115
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a file's name may be no text at all
            stream.reconfigure(errors="backslashreplace")
    try:
        status = _dispatch(list(sys.argv[1:] if argv is None else argv))
        sys.stdout.flush()
    except PlugmeterError as error:
        _say(str(error))
        status = error.exit_status
    except KeyboardInterrupt:
        _say("interrupted")
        status = _INTERRUPTED
    except BrokenPipeError:
        if not _reader_is_gone():
            raise  # some other pipe or socket broke: a defect
        _discard_output()
        return _READER_GONE
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO):
            raise
        _say(f"cannot write {error.filename or 'the output'}: {error.strerror}")
        _discard_output()
        return PlugmeterError.exit_status
    return _flushed(status)


def _dispatch(argv: list[str]) -> int:
    if argv[:1] == ["help"]:  # `plugmeter help measure` is what many type first
        argv = [*argv[1:2], "--help"]
    if not argv:
        raise UsageError("which command? " + _listed(COMMANDS) + "; see plugmeter --help")
    name = argv[0]
    if name.startswith("-"):
        return _parsed(_top_parser(), argv)[0]
    if name not in COMMANDS and name not in INTERNAL:
        near = difflib.get_close_matches(name, COMMANDS, n=1)
        meant = f"did you mean {near[0]}?" if near else f"there are {_listed(COMMANDS)}"
        raise UsageError(f"unknown command {ascii(name)[1:-1]}; {meant}")
    command = command_module(name)
    parser = Parser(
        prog=f"plugmeter {name}",
        description=f"{command.HELP[0].upper()}{command.HELP[1:]}.",
        epilog=command.EPILOG,
    )
    command.add_arguments(parser)
    status, args = _parsed(parser, argv[1:])
    return status if args is None else command.run(args)


def _parsed(parser: argparse.ArgumentParser, argv: list[str]) -> tuple[int, argparse.Namespace | None]:
    """The arguments, or None and the exit status where argparse has done it all (--help, --version)."""
    try:
        return 0, parser.parse_args(argv)
    except SystemExit as end:
        return int(end.code or 0), None


def _top_parser() -> argparse.ArgumentParser:
    width = max(map(len, COMMANDS))
    lines = []
    for group, names in GROUPS:
        lines.append(f"{group}:")
        lines += [f"  {name:<{width}}  {command_module(name).HELP}" for name in names]
        lines.append("")
    parser = Parser(
        prog="plugmeter",
        usage="plugmeter COMMAND ...",
        description="Measures how many USB hotplug events this Linux loses, at which stage, and how surely.",
        epilog="\n".join(lines) + "\n" + _EXAMPLES,
    )
    parser.add_argument("--version", action="version", version=f"plugmeter {__version__}")
    return parser


def command_module(name: str) -> CommandModule:
    """The module of a command in ``COMMANDS`` or ``INTERNAL``."""
    return cast(CommandModule, importlib.import_module(f"plugmeter.commands.{name}"))


def _listed(names: Sequence[str]) -> str:
    return f"{', '.join(names[:-1])} and {names[-1]}" if len(names) > 1 else "".join(names)


def _say(text: str) -> None:
    """Each line of ``text`` to standard error; if that is gone, nobody is left to be told."""
    try:
        for line in text.splitlines():
            print(f"plugmeter: {line}", file=sys.stderr)
    except OSError:
        pass


def _flushed(status: int) -> int:
    """``status``, once all output is out: what a failed command had printed may still be waiting."""
    try:
        sys.stdout.flush()
    except OSError:  # the command has said already why it failed; a success was flushed before
        _discard_output()
    return status


def _reader_is_gone() -> bool:
    """Whether it is standard output (or error) whose reader has gone: POLLERR on a pipe (poll(2))."""
    poller = select.poll()
    for descriptor in (1, 2):
        poller.register(descriptor, 0)
    return any(events & (select.POLLERR | select.POLLHUP) for _, events in poller.poll(0))


def _discard_output() -> None:
    """Let what is still buffered go nowhere, so that the interpreter does not complain of it at its exit."""
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 1)
    os.close(null)
