"""The configuration: a file read into the sections of ``sections``, or all that is wrong with it.

``load`` reads a file, ``parse`` a text, ``default`` is what an empty file means. ``document`` is the
commented file that lists every key, kept as firmware/docs/plugmeter.toml; ``describe`` gives the
effective values back. A file with mistakes raises one ``ConfigError`` with a line for each of them.
"""

from __future__ import annotations

import os
import re
import textwrap
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import fields, replace
from functools import partial
from pathlib import Path
from typing import Any

from plugmeter.errors import UsageError
from plugmeter.files import read_regular
from plugmeter.sections import PORTS_LIMIT, SECTIONS, Config, Port, Rig
from plugmeter.settings import Key, Problems, keys, nearest, path, read_section, shown

FILE_LIMIT_BYTES = 65_536
"""No configuration is longer: 256 ports of 60 bytes each are 15 KiB."""

_LEAST_GAP_MS = 50
"""Between two changes of one port; the USB core's debounce looks every 25 ms."""

_LEAST_AGE_DAYS = 1 / 24
"""An hour: less would be no outbox. Who says a minute for hours loses all that waits for the controller."""

_DOTS_LIMIT = 200
"""In one line. tomllib takes time with the square of a dotted key's depth."""

_PORT_NAME = re.compile(r"\d{1,3}-\d{1,3}(\.\d{1,3}){0,6}")


class ConfigError(UsageError):
    """A configuration that cannot be used; ``problems`` are its lines, each with the file and the key."""

    def __init__(self, problems: tuple[str, ...]) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems


_ELSEWHERE = {each: f"{name}.{each}" for name, section in SECTIONS.items() for each in keys(section)}
"""Where a key belongs that stands in no section or in a wrong one (one of the places, if there are two)."""


def default() -> Config:
    """What an empty file means."""
    return Config()


def load(file: str | os.PathLike[str], *, again: bool = False) -> Config:
    """The configuration in ``file``. Raises ``ConfigError`` for whatever is wrong with it.

    ``again``: it is to be read anew one day, so it must be a regular file; a FIFO would be waited for.
    """
    source = os.fspath(file)
    try:
        if again:
            raw = read_regular(Path(source), FILE_LIMIT_BYTES)
        else:
            with open(source, "rb") as opened:
                raw = opened.read(FILE_LIMIT_BYTES + 1)
    except OSError as error:
        raise ConfigError((f"{_named(source)}: cannot be read: {error.strerror or error}",)) from None
    except ValueError as error:  # a NUL in the name
        raise ConfigError((f"{_named(source)}: cannot be read: {error}",)) from None
    if len(raw) > FILE_LIMIT_BYTES:
        raise ConfigError(
            (f"{_named(source)}: longer than {FILE_LIMIT_BYTES} bytes, which no configuration is",)
        )
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ConfigError((f"{_named(source)}: not UTF-8: byte {error.start + 1} cannot be text",)) from None
    return parse(text, source)


def parse(text: str, source: str) -> Config:
    """The configuration in a TOML text; ``source`` names it in errors. Raises nothing but ``ConfigError``."""
    return from_table(_toml(text, source), source)


def with_overlay(config: Config, overlay: Mapping[str, object], source: str = "overlay") -> Config:
    """``config`` with some values instead: ``overlay`` is {section: {key: value}} of JSON values.

    What is not in it stays as it is. ``{"ports": {"1-1": {"sense_gpio": 4}}}`` adds a port or changes keys
    of one; null for a port takes it away, and null for its switch_gpio leaves that out. The whole is held to
    what a file is held to. ``source`` names the overlay in errors, and nowhere else. Raises nothing but
    ``ConfigError``, with all that is wrong.
    """
    problems = Problems()
    table: dict[str, Any] = {}
    now = describe(config)
    for name, changes in overlay.items():
        if changes is None:
            problems.add(f"{path(name)} = null: leave it out instead")
        elif not isinstance(changes, Mapping):
            table[name] = changes  # no section can be that: it is said with all else
        elif name == "ports":
            table[name] = _with_ports(now[name], changes, problems)
        else:
            for each in (each for each, value in changes.items() if value is None):
                problems.add(f"{path(name, each)} = null: leave it out instead")
            given = {each: value for each, value in changes.items() if value is not None}
            table[name] = {**now.get(name, {}), **given}
    for name, values in now.items():
        table.setdefault(name, values)
    read = from_table(table, source, problems)
    return replace(read, source=config.source)


def _with_ports(
    now: Mapping[str, Mapping[str, Any]], changes: Mapping[str, object], problems: Problems
) -> dict[str, object]:
    ports: dict[str, object] = dict(now)
    for name, port in changes.items():
        if port is None:
            if ports.pop(name, None) is None:
                problems.add(f"ports.{shown(name)} = null: there is no such port to take away")
        elif isinstance(port, Mapping):
            both = {**now.get(name, {}), **port}
            ports[name] = {each: value for each, value in both.items() if value is not None}
        else:
            ports[name] = port
    return ports


def from_table(table: Mapping[str, Any], source: str, problems: Problems | None = None) -> Config:
    """The configuration in a table as TOML gives it, held to the same limits as a file.

    ``describe`` gives such a table: ``from_table(describe(config), "")`` is ``config`` again. ``problems``
    are told beside those of the table. Raises nothing but ``ConfigError``.
    """
    problems = problems or Problems()
    sections: dict[str, Any] = {}
    for name, raw in table.items():
        if name == "ports":
            sections[name] = _ports(raw, problems)
        elif name in SECTIONS:
            sections[name] = read_section(SECTIONS[name], raw, name, problems, _ELSEWHERE)
        elif isinstance(raw, Mapping):
            problems.add_unknown("section", path(name), partial(nearest, name, (*SECTIONS, "ports")))
        else:  # a key above the first section
            problems.add_unknown("key", path(name), partial(_belongs, name))
    unsound = {name for name, section in sections.items() if section is None}
    config = Config(
        **{name: section for name, section in sections.items() if section is not None}, source=source
    )
    for line in _contradictions(config, unsound):
        problems.add(line)
    if problems.lines():
        raise ConfigError(tuple(f"{_named(source)}: {line}" for line in problems.lines()))
    return config


def with_rig(rig: Rig, given: Mapping[str, object]) -> Rig:
    """``rig`` with some values from the command line instead, held to the same limits.

    Raises UsageError, a line for each value that cannot be.
    """
    problems = Problems()
    now = {name: getattr(rig, name) for name in keys(Rig)}
    changed = read_section(Rig, {**now, **given}, "rig", problems)
    for line in _contradictions(Config(rig=changed), set()) if changed else ():
        problems.add(line)
    if changed is None or problems.lines():
        raise UsageError("\n".join(problems.lines()))
    return changed


def describe(config: Config) -> dict[str, dict[str, Any]]:
    """The effective values, as sections of plain values; ports by name, without the keys that are not set."""
    described: dict[str, dict[str, Any]] = {}
    for name, section in SECTIONS.items():
        values = getattr(config, name)
        described[name] = {each: _plain(getattr(values, each)) for each in keys(section)}
    described["ports"] = {
        port.name: {each: getattr(port, each) for each in keys(Port) if getattr(port, each) is not None}
        for port in config.ports
    }
    return described


def document() -> str:
    """The commented file with every key at its default; it reads back as ``default()``."""
    out = [
        "# Plugmeter's configuration: every key there is, with its default. Keys that are left out keep it.",
        "# Check a file with: plugmeter check FILE",
    ]
    for name, section in SECTIONS.items():
        out += ["", *_heading(section), f"[{name}]"]
        for each in fields(section):
            known: Key = each.metadata["key"]
            out += [*_explained(known), f"{each.name} = {_toml_value(each.default)}", ""]
        out.pop()
    out += ["", *_heading(Port), '# [ports."1-1.1"]']
    for (name, known), example in zip(keys(Port).items(), (17, 5), strict=True):
        out += [*_explained(known), f"# {name} = {example}"]
    return "\n".join(out) + "\n"


def _toml(text: str, source: str) -> dict[str, Any]:
    for number, line in enumerate(text.split("\n"), start=1):
        if line.count(".") > _DOTS_LIMIT and not line.lstrip().startswith("#"):
            raise ConfigError(
                (f"{_named(source)}: line {number} has more than {_DOTS_LIMIT} dots; no key does",)
            )
    try:
        return tomllib.loads(text)
    except RecursionError:
        raise ConfigError((f"{_named(source)}: not a configuration: nested too deep",)) from None
    except tomllib.TOMLDecodeError as error:
        raise ConfigError((f"{_named(source)}: not TOML: {' '.join(str(error).split())[:200]}",)) from None
    except ValueError:  # int() for more than 4,300 digits
        raise ConfigError((f"{_named(source)}: not a configuration: a number has too many digits",)) from None


def _ports(raw: object, problems: Problems) -> tuple[Port, ...] | None:
    if not isinstance(raw, Mapping):
        problems.add(f'ports = {shown(raw)}: it must be sections, one for each port: [ports."1-1.1"]')
        return None
    if len(raw) > PORTS_LIMIT:
        problems.add(f"ports: {len(raw)} of them; there may be {PORTS_LIMIT}")
        return None
    ports = []
    for name, table in raw.items():
        here = path("ports", name)
        unquoted = _unquoted(name, table)
        if unquoted:
            problems.add(f'ports.{unquoted}: put the port\'s name in quotes: [ports."{unquoted}"]')
        elif not _PORT_NAME.fullmatch(name):
            problems.add(f"{here} is no USB port; one is named as the kernel names it, such as 1-1 or 1-1.4")
        else:
            ports.append(read_section(Port, table, f'ports."{name}"', problems, name=name))
    return tuple(port for port in ports if port is not None)


def _unquoted(name: str, table: object) -> str:
    """The port that [ports.1-1.4] means, which TOML reads as 4 inside of 1-1; empty if it is not that."""
    depth = 0
    while isinstance(table, Mapping) and len(table) == 1 and depth < 7:
        ((inner, below),) = table.items()
        if not isinstance(below, Mapping):
            break
        name, table, depth = f"{name}.{inner}", below, depth + 1
    return name if depth and _PORT_NAME.fullmatch(name) else ""


def _belongs(name: str) -> str:
    return _ELSEWHERE.get(nearest(name, _ELSEWHERE), "")


def _contradictions(config: Config, unsound: set[str]) -> Iterator[str]:
    """What no key can see alone. An unsound section has its defaults here, which contradict nobody."""
    run, rig, netlink, watchers = config.run, config.rig, config.netlink, config.witnesses
    if run.debounce_ms >= run.nominal_ms:
        yield (
            f"run.debounce_ms = {run.debounce_ms} must be less than run.nominal_ms = {run.nominal_ms}:"
            " an episode is known only after the debounce time"
        )
    if run.nominal_ms >= run.lost_after_ms:
        yield (
            f"run.nominal_ms = {run.nominal_ms} must be less than run.lost_after_ms = {run.lost_after_ms}:"
            " what is late comes before what is lost"
        )
    if not unsound & {"run", "netlink"} and netlink.reorder_window_ms >= run.lost_after_ms:
        yield (
            f"netlink.reorder_window_ms = {netlink.reorder_window_ms} must be less than"
            f" run.lost_after_ms = {run.lost_after_ms}"
        )
    if 0 < rig.gap_ms < _LEAST_GAP_MS:
        yield (
            f"rig.gap_ms = {rig.gap_ms} must be 0, or not be less than {_LEAST_GAP_MS}:"
            " no USB core would see it"
        )
    elif 0 < rig.gap_ms < rig.jitter_ms:
        yield f"rig.jitter_ms = {rig.jitter_ms} must not be more than rig.gap_ms = {rig.gap_ms}"
    if 0 < config.outbox.max_age_days < _LEAST_AGE_DAYS:
        yield (
            f"outbox.max_age_days = {config.outbox.max_age_days:g} must be 0, or not be less than 1/24"
            " (0.0417): records that wait for the controller would go within the hour"
        )
    if not (watchers.netlink or watchers.udev or watchers.inotify):
        yield "witnesses: nothing would see a device; one of netlink, udev and inotify must be true"
    seen: set[str] = set()
    for folder in config.inotify.directories:
        plain = folder.rstrip("/") or "/"
        if plain in seen:
            yield f"inotify.directories has {shown(folder)} twice: every node would be seen twice"
        seen.add(plain)
    used: dict[int, str] = {}
    for port in config.ports:
        for name, line in (("sense_gpio", port.sense_gpio), ("switch_gpio", port.switch_gpio)):
            if line is None:
                continue
            here = f'ports."{port.name}".{name}'
            if line in used:
                yield f"{here} = {line}: GPIO line {line} is used by {used[line]} already"
            used.setdefault(line, here)


def _named(source: str) -> str:
    """ "config FILE", on one line whatever the file's name has in it."""
    return f"config {source if source and source.isprintable() else ascii(source)}"


def _plain(value: object) -> object:
    return list(value) if isinstance(value, tuple) else value


def _heading(section: type) -> list[str]:
    """The section's docstring, without its name, which stands below it anyway."""
    words = " ".join((section.__doc__ or "").split()).partition(": ")[2]
    return _comment(words[:1].upper() + words[1:])


def _explained(known: Key) -> list[str]:
    limits = [] if known.kind is bool else [f"# {known.limits()[0].upper()}{known.limits()[1:]}."]
    return [*_comment(known.doc), *limits]


def _comment(text: str) -> list[str]:
    return textwrap.wrap(text, 100, initial_indent="# ", subsequent_indent="# ", break_on_hyphens=False)


def _toml_value(value: object) -> str:
    if isinstance(value, tuple):
        return f"[{', '.join(shown(item) for item in value)}]"
    return shown(value)
