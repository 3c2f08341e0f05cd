"""``plugmeter run``: the daemon."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from plugmeter import config

NAME = "run"
HELP = "be the daemon: measure without end, and report to a controller over MQTT"
EPILOG = """\
examples:
  plugmeter run --config /etc/plugmeter/plugmeter.toml
      what plugmeter.service starts; systemctl reload has it read the file again
  plugmeter run --config bench.toml --check
      say whether it could start with this file, and start nothing

signals: TERM and INT end it in order: what is measured is stored, and published while there is time (a
second one, after a second, ends it at once). HUP reads the configuration again. QUIT prints where all
threads are, and ends it.

exit status: 0 it ended in order, 1 it could not start or go on, 2 bad usage or configuration.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of ``plugmeter run``."""
    parser.add_argument("--config", metavar="FILE", help="the configuration (TOML); see plugmeter check")
    parser.add_argument(
        "--check", action="store_true", help="check configuration, credentials and folders, and start nothing"
    )


def run(args: argparse.Namespace) -> int:  # noqa: RET503  it never comes back from ``leave``
    """Until it is told to stop."""
    from plugmeter.lifecycle import signals, stacks

    signals.block()  # before anything starts a thread, which would inherit another mask
    stacks.install()
    settings = config.load(args.config, again=True) if args.config else config.default()

    from plugmeter.daemon import preflight

    preflight.check(
        settings, settings.daemon.device or "check", lambda line: print(f"plugmeter: {line}", file=sys.stderr)
    )
    if args.check:
        print(f"{args.config or 'the default configuration'}: the daemon could start")
        return 0

    from plugmeter.daemon.service import Service
    from plugmeter.lifecycle import journal
    from plugmeter.lifecycle.conductor import leave

    journal.install(settings.daemon.log_level)
    leave(Service(Path(args.config) if args.config else None, settings).run())
