"""``plugmeter sign``: a command for a device, signed, as mosquitto_pub takes it; and the keys for that."""

from __future__ import annotations

import argparse
import base64
import json
import re
import shlex
import time
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from plugmeter.errors import UsageError
from plugmeter.moments import NS, rfc3339
from plugmeter.sections import Daemon, Port
from plugmeter.settings import keys, nearest
from plugmeter.telemetry import desired, desired_scope, strictjson
from plugmeter.telemetry.commands import arguments, message, signing
from plugmeter.telemetry.topics import Topics

NAME = "sign"
HELP = "make a command for a device from afar, signed if you like, and the keys for that"
EPILOG = f"""\
OP is one of {", ".join(arguments.OPS)};
or desired: the configuration that the device is to have from now on.
What follows it are its arguments. A text needs no quotes; for config and desired they are SECTION.KEY=VALUE.

examples:
  plugmeter sign --new-key fleet.key
      makes fleet.key, to be kept where commands are signed, and fleet.key.pub for the devices:
      public_key_file in [commands] names it. From then on they obey signed commands only.
  plugmeter sign --key fleet.key lab-3 start-run rig=injected sticks=20
      prints topic and payload as options of mosquitto_pub, in one line
  plugmeter sign --key fleet.key lab-3 selftest | xargs mosquitto_pub -h BROKER
      sends it. The answer, on the same topic:
      mosquitto_sub -h BROKER -v -t 'plugmeter/v1/lab-3/cmd/#'
  plugmeter sign --key fleet.key lab-3 config run.debounce_ms=120 mqtt.keepalive_s=30
  plugmeter sign lab-3 log-level level=debug minutes=30
      not signed, for a device that has no key

exit status: 0 made, 1 a file cannot be written, 2 the command line is wrong
"""

_DESIRED: Final = "desired"
_DEFAULT_VALIDITY_S: Final = 600


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of this command."""
    parser.add_argument("device", metavar="DEVICE", nargs="?", help="the device's name in its topics")
    parser.add_argument("op", metavar="OP", nargs="?", help="what it is to do")
    parser.add_argument("values", metavar="NAME=VALUE", nargs="*", help="an argument of OP")
    parser.add_argument(
        "--new-key", type=Path, metavar="FILE", help="make a private key, and FILE.pub with the public one"
    )
    parser.add_argument("--key", type=Path, metavar="FILE", help="sign with this private key (Ed25519, PEM)")
    parser.add_argument("--id", metavar="ID", help="the command's id (default: a new one)")
    parser.add_argument(
        "--valid",
        type=int,
        metavar="SECONDS",
        default=_DEFAULT_VALIDITY_S,
        help="for how long the device may begin it (default: %(default)d)",
    )
    parser.add_argument("--json", action="store_true", help='print {"topic", "payload", "id"} instead')


def run(args: argparse.Namespace) -> int:
    """Print what was asked for; raises UsageError for a command that no device would take."""
    if args.new_key is not None:
        if args.device is not None or args.key is not None:
            raise UsageError("sign: --new-key makes keys and signs nothing: give it alone")
        public_path, fingerprint = signing.new_key_pair(args.new_key)
        print(f"{args.new_key}: the private key, for those who command; keep it secret")
        print(f"{public_path}: the public key, for [commands] public_key_file of the devices")
        print(f"fingerprint: {fingerprint}")
        return 0
    if args.op is None:
        raise UsageError("sign: which DEVICE is to do what (OP)? see plugmeter sign --help")
    known = keys(Daemon)["device"]
    if not args.device or not re.fullmatch(known.pattern, args.device):
        raise UsageError(f"sign: {args.device!r} is no device; its name is {known.pattern_text}")
    command_id = uuid.uuid4().hex if args.id is None else args.id
    if not message.IDENTIFIER.fullmatch(command_id):
        raise UsageError(f"sign: --id {args.id!r} cannot be; an id is 1 to 64 of A-Z a-z 0-9 _ -")
    topic, document = _document(args, command_id)
    text = json.dumps(document)
    if args.key is not None:
        signature = signing.load_private_key(args.key).sign(text.encode())
        text = json.dumps({"signed": text, "signature": base64.b64encode(signature).decode("ascii")})
    _check(args, topic, text.encode())
    if args.json:
        print(json.dumps({"id": command_id, "topic": topic, "payload": text}))
    else:
        print(shlex.join(["-q", "1", "-r", "-t", topic, "-m", text]))
    return 0


def _document(args: argparse.Namespace, command_id: str) -> tuple[str, dict[str, Any]]:
    topics = Topics(args.device)
    now_ns = time.time_ns()
    if args.op == _DESIRED:
        return topics.desired, {
            "device": args.device,
            "id": command_id,
            "issued": rfc3339(now_ns),
            "config": _config(args.values),
        }
    if args.op not in arguments.OPS:
        near = nearest(args.op, (*arguments.OPS, _DESIRED))
        meant = f"did you mean {near}?" if near else f"there are {', '.join((*arguments.OPS, _DESIRED))}"
        raise UsageError(f"sign: unknown operation {args.op!r}; {meant}")
    most_s = message.LONGEST_VALIDITY_NS // NS
    if not 1 <= args.valid <= most_s:
        raise UsageError(f"sign: --valid {args.valid} cannot be: give 1 to {most_s} seconds")
    values = {"config": _config(args.values)} if args.op == "config" else _values(args.values)
    return topics.command(args.op, command_id), {
        "state": str(message.State.INIT),
        "device": args.device,
        "op": args.op,
        "id": command_id,
        "issued": rfc3339(now_ns),
        "expires": rfc3339(now_ns + args.valid * NS),
        "arguments": values,
    }


def _check(args: argparse.Namespace, topic: str, payload: bytes) -> None:
    """As the device would, as far as it can be done from here."""
    asked = (
        desired.parse(payload, device=args.device)
        if args.op == _DESIRED
        else message.parse(topic, payload, device=args.device)
    )
    if isinstance(asked, message.Refusal):
        raise UsageError(f"sign: {asked.detail}")
    config: dict[str, Any] = {}
    if isinstance(asked, desired.Wish):
        config = dict(asked.config)
    elif isinstance(asked, message.Command):
        config = asked.arguments.get("config", {})
    problems = desired_scope.forbidden(config)
    if problems:
        raise UsageError("\n".join(f"sign: {line}" for line in problems))


def _values(given: Sequence[str]) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for text in given:
        name, equals, value = text.partition("=")
        if not equals or not name:
            raise UsageError(f"sign: {text!r} is no argument; give NAME=VALUE")
        if name in values:
            raise UsageError(f"sign: {name} is given twice")
        values[name] = _value(value)
    return values


def _config(given: Sequence[str]) -> dict[str, Any]:
    """{section: {key: value}} of SECTION.KEY=VALUE; ports.NAME.KEY=VALUE, where NAME has dots perhaps."""
    config: dict[str, Any] = {}
    for name, value in _values(given).items():
        section, dot, key = name.partition(".")
        if not dot or not key:
            raise UsageError(f"sign: {name!r} is no key of a configuration; give SECTION.KEY=VALUE")
        port, _, port_key = key.rpartition(".")
        if section == "ports" and port_key in keys(Port):
            config.setdefault(section, {}).setdefault(port, {})[port_key] = value
        else:
            config.setdefault(section, {})[key] = value
    return config


def _value(text: str) -> Any:  # noqa: ANN401  JSON
    """JSON where it is some, and a text where not."""
    try:
        written = f'{{"value": {text}}}'.encode()
        read = strictjson.decode_object(written, limit_bytes=len(written), depth=message.DEPTH_LIMIT)
    except ValueError:
        return text
    return read["value"] if len(read) == 1 else text
