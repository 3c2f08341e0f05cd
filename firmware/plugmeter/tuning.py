"""The kernel settings that decide what listeners lose: read, raised, made permanent.

Everything is read and written below a root that is /proc by default, so that a temporary tree does as
well. Settings are only ever raised, and the old values are handed back to undo it.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from plugmeter.errors import PlugmeterError
from plugmeter.measure.needs import InotifyUse, Need
from plugmeter.reporting.files import write_text

DROP_IN = "60-plugmeter.conf"
"""Our file below /etc/sysctl.d (sysctl.d(5))."""


@dataclass(frozen=True, slots=True)
class Advice:
    """One setting: what it is, what the storm needs. ``current`` is None where it cannot be read."""

    need: Need
    current: int | None

    @property
    def must_rise(self) -> bool:
        """Whether it is known to be too low."""
        return self.current is not None and self.current < self.need.value


@dataclass(frozen=True, slots=True)
class Change:
    """A setting that was raised."""

    key: str
    old: int
    new: int


def read_setting(key: str, proc: Path) -> int | None:
    """The value of a setting, as ``net.core.rmem_max``; None where the kernel does not show it here.

    A network namespace other than the first does not show all of net.core.
    """
    path = _path_of(key, proc)
    try:
        return int(path.read_text("ascii"))
    except OSError:
        return None
    except ValueError as error:
        raise PlugmeterError(f"{path} is not a number: is {proc} the kernel's?") from error


def advise(needs: Sequence[Need], proc: Path) -> tuple[Advice, ...]:
    """Each need beside the setting as it is now."""
    return tuple(Advice(need, read_setting(need.key, proc)) for need in needs)


def apply(advice: Sequence[Advice], proc: Path) -> tuple[Change, ...]:
    """Raise what is too low, all of it or nothing, and verify. Raises PlugmeterError.

    What is high enough is not touched. Where one setting fails, those already raised are set back.
    """
    wanted = [(item, item.current) for item in advice if item.current is not None and item.must_rise]
    for item, _ in wanted:
        if not os.access(_path_of(item.need.key, proc), os.W_OK):
            raise PlugmeterError(f"no permission to set {item.need.key}: run 'sudo plugmeter advise --apply'")
    changes: list[Change] = []
    done = False
    try:
        for item, old in wanted:
            changes.append(Change(item.need.key, old, item.need.value))
            _set(item.need.key, item.need.value, proc)
        done = True
    finally:
        if not done:
            _set_back(changes, proc)
    return tuple(changes)


def undo_commands(changes: Sequence[Change]) -> list[str]:
    """What a person types to have the old values again."""
    return [f"sysctl -w {change.key}={change.old}" for change in changes]


def persist(advice: Sequence[Advice], directory: Path) -> tuple[Path, Mapping[str, int]]:
    """Write what the storm needs into a drop-in, so that it holds after a boot too: (file, its settings).

    Settings that already exceed the need stay out of it, lest a boot lower them. What an earlier drop-in of
    ours asked for is kept where it is higher. Raises PlugmeterError.
    """
    path = directory / DROP_IN
    settings = dict(_read_drop_in(path))
    for item in advice:
        if item.current is not None and item.current <= item.need.value:
            settings[item.need.key] = max(item.need.value, settings.get(item.need.key, 0))
    if settings:
        lines = "".join(f"{key} = {value}\n" for key, value in sorted(settings.items()))
        write_text(
            path, f"# Written by 'plugmeter advise --apply --persist'; delete this file to undo it.\n{lines}"
        )
    return path, settings


def inotify_use(proc: Path, devices: Path) -> tuple[InotifyUse, int]:
    """What the user with the most inotify instances and watches has, and how many processes hid theirs.

    Counted in /proc/PID/fdinfo (proc_pid_fdinfo(5)). An instance that processes share is counted for each
    of them, so the figures are upper bounds.
    """
    instances: dict[int, int] = {}
    watches: dict[int, int] = {}
    hidden = 0
    for process in _processes(proc):
        try:
            uid = process.stat().st_uid
            for info in (process / "fdinfo").iterdir():
                if _is_inotify(process / "fd" / info.name):
                    text = info.read_text("ascii", "replace")
                    instances[uid] = instances.get(uid, 0) + 1
                    watches[uid] = watches.get(uid, 0) + text.count("inotify wd:")
        except PermissionError:
            hidden += 1
        except (FileNotFoundError, ProcessLookupError):
            continue  # it ended while we looked, and its instances with it
    use = InotifyUse(
        max(instances.values(), default=0), max(watches.values(), default=0), _directories(devices)
    )
    return use, hidden


def _path_of(key: str, proc: Path) -> Path:
    return proc.joinpath("sys", *key.split("."))


def _set(key: str, value: int, proc: Path) -> None:
    path = _path_of(key, proc)
    try:
        # not by rename: these are the kernel's own files
        with path.open("w", encoding="ascii") as file:
            file.write(f"{value}\n")
    except PermissionError as error:
        raise PlugmeterError(f"no permission to set {key}: run 'sudo plugmeter advise --apply'") from error
    except OSError as error:
        raise PlugmeterError(
            f"the kernel refuses {key} = {value}: {(error.strerror or '').lower()}"
        ) from error
    got = read_setting(key, proc)
    if got != value:
        raise PlugmeterError(f"{key} was set to {value} and reads {got}: something else manages it")


def _set_back(changes: Sequence[Change], proc: Path) -> None:
    # the error that brought us here is the one to report; what cannot be set back was not set either
    for change in reversed(changes):
        with suppress(PlugmeterError):
            _set(change.key, change.old, proc)


def _read_drop_in(path: Path) -> Iterator[tuple[str, int]]:
    try:
        text = path.read_text("utf-8")
    except FileNotFoundError:
        return
    except (OSError, UnicodeDecodeError) as error:
        raise PlugmeterError(f"cannot read {path}: mend or delete it") from error
    for line in text.splitlines():
        key, separator, value = (part.strip() for part in line.partition("="))
        if line.startswith(("#", ";")) or not line.strip():
            continue
        if not separator or not value.isascii() or not value.isdigit():
            raise PlugmeterError(f"{path} has a line that is not ours: {line!r}; mend or delete the file")
        yield key, int(value)


def _processes(proc: Path) -> Iterator[Path]:
    try:
        yield from (entry for entry in proc.iterdir() if entry.name.isdigit())
    except OSError as error:
        raise PlugmeterError(f"cannot read {proc}: {(error.strerror or '').lower()}") from error


def _is_inotify(link: Path) -> bool:
    return str(link.readlink()) == "anon_inode:inotify"


def _directories(root: Path) -> int:
    return sum(1 for _ in os.walk(root))
