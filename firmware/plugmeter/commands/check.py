"""``plugmeter check``: is this configuration good, and what does it amount to?"""

from __future__ import annotations

import argparse
import json
import sys

from plugmeter import config
from plugmeter.errors import UsageError
from plugmeter.telemetry import asyncapi

NAME = "check"
HELP = "say whether a configuration is good, and what it amounts to"
EPILOG = """\
examples:
  plugmeter check --example > plugmeter.toml   write a configuration with every key, documented
  plugmeter check plugmeter.toml               say what is wrong with it, all at once
  plugmeter check --json plugmeter.toml        its effective values, defaults included
  plugmeter check --asyncapi                   what goes over MQTT, as an AsyncAPI 3.0 document

exit status: 0 good, 2 not
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of this command."""
    parser.add_argument("config", metavar="CONFIG", nargs="?", help="the TOML file to check")
    parser.add_argument("--json", action="store_true", help="print the effective values as one JSON object")
    parser.add_argument(
        "--example", action="store_true", help="print a documented configuration and check nothing"
    )
    parser.add_argument(
        "--asyncapi", action="store_true", help="print all messages over MQTT as AsyncAPI 3.0, check nothing"
    )


def run(args: argparse.Namespace) -> int:
    """0 for a good file; raises ``ConfigError`` for any other, after its problems as JSON if asked for."""
    if args.example or args.asyncapi:
        if args.config is not None or args.json or (args.example and args.asyncapi):
            option = "--example" if args.example else "--asyncapi"
            raise UsageError(f"check: {option} takes no CONFIG and no other option")
        sys.stdout.write(config.document() if args.example else asyncapi.text())
        return 0
    if args.config is None:
        raise UsageError(
            "check: which CONFIG? name a TOML file, or make one: plugmeter check --example > FILE"
        )
    try:
        checked = config.load(args.config)
    except config.ConfigError as error:
        if args.json:
            print(json.dumps({"file": args.config, "good": False, "problems": error.problems}, indent=2))
        raise
    if args.json:
        print(json.dumps({"file": args.config, "good": True, "config": config.describe(checked)}, indent=2))
    else:
        print(f"{args.config}: good")
    return 0
