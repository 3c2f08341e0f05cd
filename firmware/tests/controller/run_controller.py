"""``plugmeter controller`` as a process of its own, for tests: what cli.main does with a command."""

from __future__ import annotations

import sys

from plugmeter.cli import Parser
from plugmeter.commands import controller
from plugmeter.errors import PlugmeterError


def main() -> int:
    parser = Parser(prog="plugmeter controller", epilog=controller.EPILOG)
    try:
        controller.add_arguments(parser)
        return controller.run(parser.parse_args())
    except PlugmeterError as error:
        print(f"plugmeter: {error}", file=sys.stderr)
        return error.exit_status


if __name__ == "__main__":
    sys.exit(main())
