"""``plugmeter bench stop``: how quickly the daemon ends."""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path

from plugmeter.bench import stop
from plugmeter.bench.broker import Broker, find_mosquitto, free_port
from plugmeter.bench.daemon import DaemonFolder, Listener, plugmeter
from plugmeter.bench.drafts import fill, pending
from plugmeter.bench.goals import Goal
from plugmeter.commands.benches.options import add_controller, controller, count, number
from plugmeter.commands.benches.output import deliver, load_line, tell
from plugmeter.errors import PlugmeterError
from plugmeter.reporting.table import table

NAME = "stop"
HELP = "how quickly it ends: SIGQUIT to stacks, SIGTERM to the end"
EPILOG = """\
examples:
  plugmeter bench stop
  plugmeter bench stop --times 1000 --case silent

Each stop is one of a new process. SIGQUIT: from the signal to the last of the stacks on standard error,
while C code holds the interpreter's lock and another thread waits for it. SIGTERM: from the signal until the
process of plugmeter run is gone, which is supervised as by systemd; starting is not timed. It has no rig.

  live broker     mosquitto, and the controller with SQLite, on loopback. The records are put into the outbox
                  before the daemon starts. Until SIGTERM mosquitto is stopped (SIGSTOP), so all of them are
                  pending then, and the daemon has no session yet; it goes on (SIGCONT) with SIGTERM. So
                  within the time is all of it: CONNACK, subscribing, publishing, the controller's commits and
                  acknowledgements, the last documents, closing. One more stop before all others is not
                  counted: it is the controller's first work.
  silent broker   mosquitto stays stopped: connections are accepted, and nobody says anything.
  no broker       connections are refused.

With a dead broker the drain runs out, and the time is what is taken beyond its deadline (--drain). The memory
of drains, which would make each deadline longer than the last, is cleared before each start. What does not
end within the unit's TimeoutStopSec, and what it asked for beyond, is killed, and counted.
"""

CASES = ("quit", "live", "silent", "refused")
_DRAIN_S = 0.2
_LIVE_DRAIN_S = 10.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of ``plugmeter bench stop``."""
    parser.add_argument(
        "--times", type=count(1, 10_000), default=20, metavar="N", help="how often each (default: 20)"
    )
    parser.add_argument(
        "--pending",
        type=count(1, 1_000_000),
        default=10_000,
        metavar="N",
        help="records in the outbox at SIGTERM (default: 10000)",
    )
    parser.add_argument(
        "--drain",
        type=number(0.1, 30),
        default=_DRAIN_S,
        metavar="S",
        help=f"the deadline with a dead broker (default: {_DRAIN_S:g})",
    )
    parser.add_argument(
        "--case",
        choices=CASES,
        action="append",
        metavar="NAME",
        help=f"only this one, again for more of them: {', '.join(CASES)} (default: all)",
    )
    add_controller(parser)
    parser.add_argument("--here", choices=["hold"], help=argparse.SUPPRESS)


def run(args: argparse.Namespace) -> int:
    """Start and stop, again and again."""
    if args.here == "hold":
        stop.hold_the_lock()
        return 1  # nobody sent SIGQUIT
    cases = args.case or CASES
    found: list[stop.Latencies] = []
    goals: list[Goal] = []
    notes: list[str] = []
    if "quit" in cases:
        tell(f"{args.times} times SIGQUIT")
        found.append(stop.measure_quits(plugmeter("bench", "stop", "--here", "hold"), args.times))
        goals.append(Goal("SIGQUIT to stacks, the slowest", found[0].ms[-1], 100, "ms", False))
    groups = {"live": partial(live, args, notes), "silent": partial(silent, args)}
    try:
        find_mosquitto()
    except PlugmeterError as error:
        notes.append(f"Without a live and a silent broker: {error}.")
        groups.clear()
    groups["refused"] = partial(refused, args)
    for make in (make for name, make in groups.items() if name in cases):
        with make() as case:
            tell(f"{args.times} stops: {case.name}")
            timed = stop.measure_stops(case, args.times)
        found.append(timed)
        if case.planned_s:
            goals.append(Goal(f"{case.name}: beyond, the slowest", timed.ms[-1], 50, "ms", False))
        else:
            goals.append(Goal(f"{case.name}: p99", timed.quantile(0.99), 1000, "ms", False))
    goals.append(Goal("killed", sum(each.killed for each in found), 0, "", False))
    rows = [
        [each.name, f"{each.planned_ms:,.0f}"]
        + [f"{each.quantile(share):,.1f}" for share in (0.5, 0.99, 1.0)]
        + [
            ", ".join(f"{times} × {status}" for status, times in sorted(each.statuses.items())),
            f"{each.killed}",
            f"{each.left:,}",
        ]
        for each in found
    ]
    header = ["", "planned ms", "p50 ms beyond", "p99", "slowest", "exit status", "killed", "left"]
    lines = [f"{args.times} times each", "", *table(header, rows, width=110), *notes, load_line()]
    figures = {
        "times": args.times,
        "pending": args.pending,
        "cases": [each.as_json() for each in found],
        "notes": notes,
    }
    deliver(NAME, args.json, lines, figures, goals)
    return 0


@contextmanager
def live(args: argparse.Namespace, notes: list[str]) -> Iterator[stop.Case]:
    """Records pending, and a broker and a controller that take them from SIGTERM on."""
    with ExitStack() as stack:
        folder, broker = _folder(stack), _broker(stack)
        name, command = controller(args, broker, notes)
        listener = stack.enter_context(Listener(name, command, broker))

        def before() -> None:
            listener.look()
            broker.resume()  # a stop that failed may have left it stopped
            fill(folder.state, args.pending, tell)
            broker.pause()

        case = stop.Case(
            f"{args.pending:,} pending, live broker",
            folder.configure(broker.port, drain_s=_LIVE_DRAIN_S),
            before=before,
            on_term=broker.resume,
            left=partial(pending, folder.state),
        )
        stop.measure_stops(case, 1)  # to warm the controller up
        yield case


@contextmanager
def silent(args: argparse.Namespace) -> Iterator[stop.Case]:
    """A broker that accepts connections and says nothing."""
    with ExitStack() as stack:
        folder, broker = _folder(stack), _broker(stack)
        fill(folder.state, args.pending, tell)
        broker.pause()
        yield _dead(args, "silent broker", folder, broker.port)


@contextmanager
def refused(args: argparse.Namespace) -> Iterator[stop.Case]:
    """No broker."""
    with ExitStack() as stack:
        folder = _folder(stack)
        fill(folder.state, args.pending, tell)
        yield _dead(args, "no broker", folder, free_port())


def _dead(args: argparse.Namespace, name: str, folder: DaemonFolder, port: int) -> stop.Case:
    return stop.Case(
        f"{args.pending:,} pending, {name}",
        folder.configure(port, drain_s=args.drain),
        planned_s=args.drain,
        before=folder.forget_drains,
        left=partial(pending, folder.state),
    )


def _folder(stack: ExitStack) -> DaemonFolder:
    path = stack.enter_context(tempfile.TemporaryDirectory(prefix="plugmeter-"))
    return DaemonFolder(Path(path))


def _broker(stack: ExitStack) -> Broker:
    path = stack.enter_context(tempfile.TemporaryDirectory(prefix="plugmeter-"))
    return stack.enter_context(Broker(Path(path)))
