"""``plugmeter controller``: the reference controller, its audit, and commands to devices."""

from __future__ import annotations

import argparse
import json
import re
import secrets
import sys
import time
import tomllib
import uuid
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from plugmeter.errors import UsageError
from plugmeter.files import read_regular

if TYPE_CHECKING:
    from plugmeter.controller.broker import BrokerSettings
    from plugmeter.controller.commander import Answer

NAME = "controller"
HELP = "store what devices report, prove that nothing is missing, show it on a page"
EPILOG = """\
WHAT is serve (the default), audit, devices, command or config; each has a --help of its own.

examples:
  plugmeter controller
      stores in plugmeter-controller.db, broker on this machine, page at http://127.0.0.1:8080/
  plugmeter controller serve --broker mqtts://broker.example --username lab --password-file lab.password
  plugmeter controller serve --database postgresql://plugmeter@db.example/plugmeter --share lab
      two of these, on one database, share the work
  plugmeter controller serve --keep-days 365         records older than a year go, and stay accounted for
  plugmeter controller audit                          is every record of every device accounted for?
  plugmeter controller devices
  plugmeter controller command lab-3 start-run --argument rig=injected --argument sticks=20
  plugmeter controller config lab-3 wish.toml         what lab-3 is to be configured as from now on

The page is for this machine only. For others put a proxy with TLS and passwords before it, such as nginx
with "proxy_pass http://127.0.0.1:8080;"; where the proxy passes its own Host header on, name that with
--allow-host. With --token-file the page asks for a password itself; over a network that still wants TLS.

exit status: 0 all well (serve: ended in order), 1 something is unaccounted for, a command failed or was
refused, or it could not be done; 2 bad usage
"""

_DATABASE: Final = "plugmeter-controller.db"
_CLIENT_ID: Final = "plugmeter-controller"
_CONFIG_LIMIT_BYTES: Final = 65_536
_MOST_DAYS: Final = 36_500


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The sub-commands; without one it is serve."""
    _add_serve(parser)
    parser.set_defaults(run_controller=_serve)
    what = parser.add_subparsers(dest="what", metavar="WHAT")
    # Defaults are the main parser's; a sub-parser's own would undo what was given before WHAT.
    serve = _sub(what, "serve", "receive, store, acknowledge, and show the page", _serve)
    _add_serve(serve)
    audit = _sub(what, "audit", "prove that every record is stored, tombstoned or pending", _audit)
    _add_database(audit)
    audit.add_argument("--device", metavar="D", default=None, help="of this device only")
    audit.add_argument("--json", action="store_true", default=False, help="as JSON")
    devices = _sub(what, "devices", "list the devices that have reported", _devices)
    _add_database(devices)
    devices.add_argument("--json", action="store_true", default=False, help="as JSON")
    command = _sub(what, "command", "have a device do something, and wait for what becomes of it", _command)
    _add_broker(command)
    command.add_argument("device", metavar="DEVICE", help="its name in its topics")
    command.add_argument(
        "op",
        metavar="OP",
        help="start-run, stop-run, selftest, resync, config, log-level, restart or hwtest",
    )
    command.add_argument(
        "--argument", metavar="K=V", action="append", default=[], help="of OP; as often as needed"
    )
    _add_sending(command, "the command's id (default: a new one)")
    config = _sub(what, "config", "set the configuration that a device is to have", _config)
    _add_broker(config)
    config.add_argument("device", metavar="DEVICE", help="its name in its topics")
    config.add_argument(
        "file", metavar="FILE", type=Path, help="TOML, as plugmeter.toml: what differs from it"
    )
    _add_sending(config, "the wish's id (default: a new one)")


def run(args: argparse.Namespace) -> int:
    """What was asked for."""
    status: int = args.run_controller(args)
    return status


def _sub(
    what: argparse._SubParsersAction[argparse.ArgumentParser], name: str, text: str, action: object
) -> argparse.ArgumentParser:
    parser = what.add_parser(
        name,
        help=text,
        description=f"{text[0].upper()}{text[1:]}.",
        argument_default=argparse.SUPPRESS,
    )
    parser.set_defaults(run_controller=action)
    return parser


def _default(parser: argparse.ArgumentParser, value: object) -> Any:  # noqa: ANN401  for add_argument
    """``value`` for the main parser, nothing for a sub-parser."""
    return argparse.SUPPRESS if parser.argument_default is argparse.SUPPRESS else value


def _add_database(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--database",
        metavar="FILE|URL",
        default=_default(parser, _DATABASE),
        help=f"a file for SQLite, or postgresql://USER@HOST/NAME (default: {_DATABASE})",
    )


def _add_broker(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("broker")
    none = _default(parser, None)
    group.add_argument(
        "--broker",
        metavar="URL",
        default=_default(parser, "mqtt://127.0.0.1:1883"),
        help="mqtt://HOST:PORT, or mqtts:// for TLS (default: mqtt://127.0.0.1:1883)",
    )
    group.add_argument("--username", metavar="NAME", default=none)
    group.add_argument(
        "--password-file", metavar="FILE", type=Path, default=none, help="the password is its first line"
    )
    group.add_argument(
        "--ca-file",
        metavar="FILE",
        type=Path,
        default=none,
        help="who may sign the broker's certificate (PEM)",
    )
    group.add_argument(
        "--certificate", metavar="FILE", type=Path, default=none, help="our own, if it asks (PEM)"
    )
    group.add_argument("--key-file", metavar="FILE", type=Path, default=none, help="the key to it (PEM)")


def _add_serve(parser: argparse.ArgumentParser) -> None:
    _add_database(parser)
    none = _default(parser, None)
    parser.add_argument(
        "--listen",
        metavar="ADDRESS:PORT",
        default=_default(parser, "127.0.0.1:8080"),
        help="where the page is (default: 127.0.0.1:8080); port 0 takes a free one",
    )
    parser.add_argument(
        "--no-page", action="store_true", default=_default(parser, False), help="serve no page"
    )
    parser.add_argument(
        "--token-file",
        metavar="FILE",
        type=Path,
        default=none,
        help="the page asks for the first line of this file as a password",
    )
    parser.add_argument(
        "--allow-host",
        metavar="NAME",
        action="append",
        default=_default(parser, []),
        help="on a loopback address the page answers to localhost; to this name too",
    )
    parser.add_argument(
        "--keep-days",
        metavar="N",
        type=int,
        default=none,
        help="delete records N days after they came; the audit still counts them (default: keep all)",
    )
    _add_broker(parser)
    parser.add_argument(
        "--client-id",
        metavar="ID",
        default=none,
        help=f"our name at the broker (default: {_CLIENT_ID}; with --share one of a kind)",
    )
    parser.add_argument(
        "--share",
        metavar="GROUP",
        default=none,
        help="split the records with the other controllers of this group, on one database",
    )


def _add_sending(parser: argparse.ArgumentParser, id_help: str) -> None:
    parser.add_argument("--key", metavar="FILE", type=Path, default=None, help="sign with this private key")
    parser.add_argument("--id", metavar="ID", default=None, help=id_help)
    parser.add_argument(
        "--timeout", metavar="S", type=int, default=300, help="how long to wait (default: 300 seconds)"
    )
    parser.add_argument("--json", action="store_true", default=False, help="print the last answer as JSON")


def _serve(args: argparse.Namespace) -> int:
    from plugmeter.controller.service import ServiceSettings, say, serve
    from plugmeter.controller.store import open_store

    if args.share is not None and not re.fullmatch(r"[A-Za-z0-9_.-]{1,64}", args.share):
        raise UsageError(f"--share {args.share!r}: a group's name is 1 to 64 of A-Z a-z 0-9 _ . -")
    if args.client_id == "":
        raise UsageError("--client-id '': give a name, or leave it out for the default")
    if args.keep_days is not None and not 1 <= args.keep_days <= _MOST_DAYS:
        raise UsageError(f"--keep-days {args.keep_days}: give 1 to {_MOST_DAYS}, or leave it out to keep all")
    shared = f"{_CLIENT_ID}-{secrets.token_hex(4)}"
    settings = ServiceSettings(
        broker=_broker(args),
        client_id=args.client_id or (shared if args.share else _CLIENT_ID),
        share=args.share,
        listen=None if args.no_page else _listen(args.listen),
        token=None if args.token_file is None else _token(args.token_file),
        keep_days=args.keep_days,
        hosts=frozenset(name.lower() for name in args.allow_host),
    )
    store = open_store(args.database)
    say(f"database: {store.name}")
    return serve(settings, store, say)


def _audit(args: argparse.Namespace) -> int:
    from plugmeter.controller.audit import as_value, examine, render, well
    from plugmeter.controller.books import read_books
    from plugmeter.controller.store import open_store

    store = open_store(args.database, create=False)
    try:
        books, standings = read_books(store, args.device)
    finally:
        store.close()
    findings = [examine(each) for each in books]
    found = json.dumps(as_value(findings, standings), indent=2) + "\n" if args.json else ""
    sys.stdout.write(found or render(findings, standings))
    return 0 if well(findings, standings) else 1


def _devices(args: argparse.Namespace) -> int:
    from plugmeter.controller import fleet_view, queries, wording
    from plugmeter.controller.over_time import DAY_HOURS
    from plugmeter.controller.store import open_store

    now_ms = time.time_ns() // 1_000_000
    store = open_store(args.database, create=False)
    try:
        with store.reading() as session:
            found = queries.fleet(session, queries.hour_of(now_ms) - DAY_HOURS)
    finally:
        store.close()
    view = fleet_view.fleet(found, now_ms, 0)
    if args.json:
        sys.stdout.write(json.dumps(view["devices"], indent=2) + "\n")
        return 0
    if not view["devices"]:
        sys.stdout.write("no device has reported yet\n")
    for row in view["devices"]:
        sys.stdout.write(
            f"{row['name']:<20} {row['state']:<8} heard {wording.ago(row['heard_ms'], now_ms):<12}"
            f" backlog {wording.count(row['backlog']):>8}   lost in 24 h {row['lost_day']:,} of"
            f" {row['verdicts_day']:,}\n"
        )
    return 0


def _command(args: argparse.Namespace) -> int:
    from plugmeter.controller import commander

    order = commander.command(
        args.device,
        args.op,
        args.id or uuid.uuid4().hex,
        _arguments(args.argument),
        valid_s=max(1, args.timeout),
        now_ns=time.time_ns(),
        key=args.key,
    )
    return _send(args, order)


def _config(args: argparse.Namespace) -> int:
    from plugmeter.controller import commander

    order = commander.configuration(
        args.device, args.id or uuid.uuid4().hex, _wish(args.file), now_ns=time.time_ns(), key=args.key
    )
    return _send(args, order)


def _send(args: argparse.Namespace, order: Any) -> int:  # noqa: ANN401  an Order; imported late
    from plugmeter.controller import commander
    from plugmeter.controller.arrivals import printable

    def tell(answer: Answer) -> None:
        if not args.json:
            reason = f": {printable(answer.reason, 1_000)}" if answer.reason else ""
            print(f"{printable(answer.state, 40)}{reason}", flush=True)

    answer = commander.send(
        _broker(args),
        order,
        client_id=f"plugmeter-command-{secrets.token_hex(4)}",
        timeout_s=args.timeout,
        tell=tell,
    )
    if args.json:
        print(json.dumps(dict(answer.document), indent=2))
    else:
        sys.stdout.writelines(f"  {line}\n" for line in _result(answer.document.get("result")))
    return 0 if answer.state in ("successful", "in_effect") else 1


def _result(result: object) -> list[str]:
    """What came of it, a line for each key; the details of a self-test fill pages: they are in the JSON."""
    from plugmeter.controller.arrivals import printable

    if not isinstance(result, dict):
        return []
    lines = []
    for key, value in result.items():
        if isinstance(value, dict) or (isinstance(value, list) and any(isinstance(v, dict) for v in value)):
            text = f"{len(value)} of them (--json shows them)"
        elif isinstance(value, list):
            text = ", ".join(str(each) for each in value)
        else:
            text = value if isinstance(value, str) else json.dumps(value)
        lines.append(printable(f"{key}: {text}", 1_000))
    return lines


def _broker(args: argparse.Namespace) -> BrokerSettings:
    from plugmeter.controller.broker import settings_from

    return settings_from(
        args.broker,
        ca_file=args.ca_file,
        certificate_file=args.certificate,
        key_file=args.key_file,
        username=args.username,
        password_file=args.password_file,
    )


def _listen(text: str) -> tuple[str, int]:
    host, colon, port = text.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    if not (colon and host and port.isascii() and port.isdigit() and int(port) <= 65_535):
        raise UsageError(f"--listen {text}: give ADDRESS:PORT, such as 127.0.0.1:8080 or [::1]:8080")
    return host, int(port)


def _token(path: Path) -> str:
    try:
        token = read_regular(path, 4_096).decode("utf-8").partition("\n")[0].strip()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is no text"
        raise UsageError(f"--token-file {path}: {(reason or str(error)).lower()}") from error
    if len(token) < 8:
        raise UsageError(f"--token-file {path}: its first line must have 8 characters at least")
    return token


def _arguments(given: list[str]) -> dict[str, Any]:
    """NAME=VALUE: JSON where the value is some, else a text."""
    found: dict[str, Any] = {}
    for text in given:
        name, equals, value = text.partition("=")
        if not (equals and name):
            raise UsageError(f"--argument {text}: give NAME=VALUE")
        if name in found:
            raise UsageError(f"--argument {name} is given twice")
        try:
            found[name] = json.loads(value)
        except ValueError:
            found[name] = value
    return found


def _wish(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(read_regular(path, _CONFIG_LIMIT_BYTES).decode("utf-8"))
    except OSError as error:
        raise UsageError(f"cannot read {path}: {(error.strerror or str(error)).lower()}") from error
    except (UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise UsageError(f"{path} is no TOML: {' '.join(str(error).split())}") from error
