"""The configuration: every key, its default, its limits and its documentation; and a file read into it.

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
from dataclasses import MISSING, dataclass, field, fields
from functools import partial
from typing import Any

from plugmeter.errors import UsageError
from plugmeter.settings import Key, Problems, key, keys, nearest, path, read_section, shown

FILE_LIMIT_BYTES = 65_536
"""No configuration is longer: 256 ports of 60 bytes each are 15 KiB."""

_LEAST_GAP_MS = 50
"""Between two changes of one port; the USB core's debounce looks every 25 ms."""

_DOTS_LIMIT = 200
"""In one line. tomllib takes time with the square of a dotted key's depth."""

_PORTS_LIMIT = 256
_PORT_NAME = re.compile(r"\d{1,3}-\d{1,3}(\.\d{1,3}){0,6}")
_GIB = 1_073_741_823
"""SO_RCVBUF is an int that the kernel doubles (socket(7)): half of INT_MAX."""


class ConfigError(UsageError):
    """A configuration that cannot be used; ``problems`` are its lines, each with the file and the key."""

    def __init__(self, problems: tuple[str, ...]) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """[run]: what counts as an episode, as late and as lost."""

    debounce_ms: int = key(
        100,
        "How long VBUS must stay stable to count as an episode; shorter pulses are ambiguous."
        " The USB core waits just as long.",
        unit="ms", low=1, high=10_000,
    )  # fmt: skip
    nominal_ms: int = key(
        3_000,
        "An enumeration that comes later than this after its episode is late.",
        unit="ms", low=1, high=600_000,
    )  # fmt: skip
    lost_after_ms: int = key(
        30_000,
        "An episode whose enumeration has not come after this time is lost.",
        unit="ms", low=2, high=3_600_000,
    )  # fmt: skip
    storm_quiet_ms: int = key(
        1_000,
        "Episodes with less than this between them belong to one storm; losses come in bursts, so the"
        " bootstrap draws whole storms.",
        unit="ms", low=1, high=600_000,
    )  # fmt: skip
    claim_loss_rate: float = key(
        0.001,
        'The loss rate to be claimed ("under 0.1 %"): the report says how many more events that takes.',
        low=1e-9, high=0.5,
    )  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Witnesses:
    """[witnesses]: who is asked."""

    gpio: bool = key(
        True, "The GPIO lines of [ports]: the ground truth. Without it no run earns a certificate."
    )
    netlink: bool = key(True, "The kernel's own uevents.")
    udev: bool = key(True, "The events that udevd sends on.")
    inotify: bool = key(True, "Device nodes that appear and vanish.")
    listeners: bool = key(True, "What the kernel drops for every uevent socket of this machine.")


@dataclass(frozen=True, slots=True, kw_only=True)
class Netlink:
    """[netlink]: the kernel uevent witness."""

    receive_buffer_bytes: int = key(
        134_217_728,
        "The socket's receive buffer. More than net.core.rmem_max takes root (or CAP_NET_ADMIN).",
        unit="bytes", low=4_096, high=_GIB,
    )  # fmt: skip
    ring_slots: int = key(
        2_048,
        "Slots of the ring between receive thread and pipeline; beyond them the rest waits in the socket.",
        low=16, high=1_048_576,
    )  # fmt: skip
    reorder_window_ms: int = key(
        500,
        "A hole in SEQNUM that is still there after this time is a loss: the kernel may swap two events.",
        unit="ms", low=1, high=60_000,
    )  # fmt: skip
    realtime_priority: int = key(
        10,
        "SCHED_FIFO priority of the receive thread where it is permitted; 0 leaves it an ordinary thread.",
        low=0, high=99,
    )  # fmt: skip
    lock_memory: bool = key(
        True, "Lock the ring in memory where it is permitted (mlock), so that no page fault delays a read."
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Udev:
    """[udev]: the witness of udevd's events."""

    receive_buffer_bytes: int = key(
        134_217_728,
        "The socket's receive buffer. More than net.core.rmem_max takes root (or CAP_NET_ADMIN).",
        unit="bytes", low=4_096, high=_GIB,
    )  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Inotify:
    """[inotify]: the witness of device nodes."""

    directories: tuple[str, ...] = key(
        ("/dev",),
        "The folders to watch for nodes that are created, changed or deleted.",
        low=1, high=64, pattern=r"/[^\0]{0,4094}", pattern_text='a list of full paths, such as ["/dev"]',
    )  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Gpio:
    """[gpio]: how the lines of [ports] are read and driven."""

    factory: str = key(
        "plugmeter-gpiod",
        "The gpiozero pin factory. Others (lgpio, mock, ...) work, but pass on no kernel numbers, without"
        " which a run earns no certificate.",
        pattern=r"[A-Za-z][A-Za-z0-9_.-]{0,63}", pattern_text="the name of a gpiozero pin factory",
    )  # fmt: skip
    chip: str = key(
        "",
        "The GPIO chip: /dev/gpiochip0, gpiochip0 or its label. Empty finds the one of the Pi's header.",
        pattern=r"[^\0-\x1f\x7f]{0,255}", pattern_text="a chip's path, name or label, or empty",
    )  # fmt: skip
    active_high: bool = key(True, "Whether a high sense line means that VBUS is on.")
    pull: str = key(
        "none",
        "The bias of the sense lines. A divider from VBUS wants none.",
        choices=("none", "up", "down"),
    )  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Port:
    """[ports."NAME"]: the GPIO lines of one USB port, which is named as the kernel names it (1-1.4)."""

    name: str
    sense_gpio: int = key(
        MISSING,
        "The GPIO line that senses this port's VBUS.",
        kind=int, low=0, high=1_023,
    )  # fmt: skip
    switch_gpio: int | None = key(
        None,
        "The GPIO line that switches this port's VBUS, for the relay rig. May be left out.",
        kind=int, low=0, high=1_023,
    )  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Rig:
    """[rig]: what is plugged, how often and how fast. Options of the command line win over it."""

    sticks: int = key(120, "How many different USB sticks take turns.", low=1, high=1_000_000)
    cycles: int = key(1, "How often each of them is plugged and pulled.", low=1, high=1_000_000)
    ports: int = key(8, "Ports of the injected rig, which simulates them.", low=1, high=_PORTS_LIMIT)
    gap_ms: int = key(
        0,
        "The least time between two changes of one port, from 50 ms on. 0 takes what the rig needs:"
        " 250 ms where it simulates, 1000 ms where a real kernel enumerates.",
        unit="ms", low=0, high=3_600_000,
    )  # fmt: skip
    jitter_ms: int = key(
        15, "Each change comes earlier or later by up to this.", unit="ms", low=0, high=60_000
    )
    density_per_s: float = key(
        0.0,
        "Plugs a second over all ports; 0 plugs as fast as gap_ms allows.",
        unit="per second", low=0, high=1_000_000,
    )  # fmt: skip
    bounce: str = key(
        "none",
        "How contacts bounce: contact is a burst of edges at each change, dip a short loss of VBUS between.",
        choices=("none", "contact", "dip"),
    )  # fmt: skip
    seed: int = key(1, "The same seed plugs the same sticks at the same times.", low=0, high=2**63 - 1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """A whole configuration. ``source`` is where it came from and no part of its value."""

    run: Run = Run()
    witnesses: Witnesses = Witnesses()
    netlink: Netlink = Netlink()
    udev: Udev = Udev()
    inotify: Inotify = Inotify()
    gpio: Gpio = Gpio()
    ports: tuple[Port, ...] = ()
    rig: Rig = Rig()
    source: str = field(default="", compare=False)


_SECTIONS: dict[str, type] = {
    "run": Run,
    "witnesses": Witnesses,
    "netlink": Netlink,
    "udev": Udev,
    "inotify": Inotify,
    "gpio": Gpio,
    "rig": Rig,
}


_ELSEWHERE = {each: f"{name}.{each}" for name, section in _SECTIONS.items() for each in keys(section)}
"""Where a key belongs that stands in no section or in a wrong one (one of the places, if there are two)."""


def default() -> Config:
    """What an empty file means."""
    return Config()


def load(file: str | os.PathLike[str]) -> Config:
    """The configuration in ``file``. Raises ``ConfigError`` for whatever is wrong with it."""
    source = os.fspath(file)
    try:
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
    table = _toml(text, source)
    problems = Problems()
    sections: dict[str, Any] = {}
    for name, raw in table.items():
        if name == "ports":
            sections[name] = _ports(raw, problems)
        elif name in _SECTIONS:
            sections[name] = read_section(_SECTIONS[name], raw, name, problems, _ELSEWHERE)
        elif isinstance(raw, Mapping):
            problems.add_unknown("section", path(name), partial(nearest, name, (*_SECTIONS, "ports")))
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
    for name, section in _SECTIONS.items():
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
    for name, section in _SECTIONS.items():
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
    if len(raw) > _PORTS_LIMIT:
        problems.add(f"ports: {len(raw)} of them; there may be {_PORTS_LIMIT}")
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
    words = (section.__doc__ or "").partition(": ")[2]
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
