"""The last coldplug scan, kept on disk: what was plugged when we last looked.

Written whole or not at all (``files.replace_file``). What cannot be read back is put aside and not
deleted, and said.
"""

from __future__ import annotations

import json
import zlib
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from plugmeter.errors import PlugmeterError
from plugmeter.files import read_regular, replace_file
from plugmeter.measure.presence import Change, differences
from plugmeter.records import Device, Presence

_FORMAT = "plugmeter-snapshot-1"

_LIMIT_BYTES = 16 * 1024 * 1024
"""A device is some 200 bytes, and a host has at most 127 on each bus."""

_ASIDE_LIMIT = 16
"""So many damaged files are kept; the next takes the place of the last of them."""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A presence and the boot that it is of; ``presence.t_ns`` is a time of that boot."""

    presence: Presence
    boot_id: str

    def changes_to(self, now: Snapshot) -> list[Change]:
        """What changed from this snapshot to ``now``; numbers count only within one boot."""
        return differences(self.presence, now.presence, same_boot=self.boot_id == now.boot_id)


@dataclass(frozen=True, slots=True)
class Loaded:
    """What ``load`` found: a snapshot, or none, and then ``problem`` says why unless there was no file."""

    snapshot: Snapshot | None
    problem: str = ""


def boot_id(proc: Path = Path("/proc")) -> str:
    """The kernel's random name of this boot (random(4)); empty where it cannot be read."""
    try:
        return (proc / "sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return ""


def save(path: Path, presence: Presence, boot: str | None = None) -> None:
    """Keep ``presence`` in ``path``, atomically; ``boot`` is by default the boot we are in.

    Raises PlugmeterError if it cannot be written; what was there before is then still there.
    """
    body = _body(Snapshot(presence, boot_id() if boot is None else boot))
    text = json.dumps({"format": _FORMAT, "crc32": _checksum(body), **body}, indent=1) + "\n"
    try:
        replace_file(path, text.encode())
    except OSError as error:
        raise PlugmeterError(
            f"cannot keep the USB snapshot in {path}: {_reason(error)}; choose a place that can be written"
        ) from error


def load(path: Path) -> Loaded:
    """The snapshot in ``path``. A damaged one is renamed to ``.damaged-N`` beside it, and said.

    Raises PlugmeterError if the file is there and may not be read or put aside,
    and for what is no regular file or far too large: that is not ours, and stays.
    """
    try:
        data = read_regular(path, _LIMIT_BYTES)
    except FileNotFoundError:
        return Loaded(None)
    except OSError as error:
        raise PlugmeterError(
            f"cannot read the USB snapshot {path}: {_reason(error)}; name another file"
        ) from error
    try:
        return Loaded(decode(data))
    except ValueError as error:
        aside = _free_name(path)
        try:
            path.replace(aside)
        except OSError as failure:
            raise PlugmeterError(
                f"the USB snapshot {path} is damaged ({error}) and cannot be put aside: {failure.strerror}"
            ) from failure
        return Loaded(None, f"the USB snapshot {path} is damaged ({error}); it was put aside as {aside.name}")


def decode(data: bytes) -> Snapshot:
    """The snapshot in a file's content. Raises ValueError, and nothing else, with the reason."""
    try:
        found = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise ValueError("it is not JSON") from error
    if not isinstance(found, dict) or found.get("format") != _FORMAT:
        raise ValueError(f"it is not of format {_FORMAT}")
    try:
        snapshot = Snapshot(
            boot_id=_text(found["boot_id"]),
            presence=Presence(
                t_ns=_whole(found["t_ns"]),
                reason=_text(found["reason"]),
                devices=tuple(_device(one) for one in found["devices"]),
            ),
        )
    except (KeyError, TypeError) as error:
        raise ValueError(f"{error} is missing or of the wrong kind") from error
    if found.get("crc32") != _checksum(_body(snapshot)):
        raise ValueError("its checksum does not fit")
    return snapshot


def _device(found: dict[str, Any]) -> Device:
    return Device(
        port=_text(found["port"]),
        busnum=_whole(found["busnum"]),
        devnum=_whole(found["devnum"]),
        vendor_id=_text(found["vendor_id"]),
        product_id=_text(found["product_id"]),
        serial=_text(found["serial"]),
    )


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError(repr(value))
    return value


def _whole(value: object) -> int:
    if not isinstance(value, int) or isinstance(value, bool):
        raise TypeError(repr(value))
    return value


def _body(snapshot: Snapshot) -> dict[str, Any]:
    return {
        "boot_id": snapshot.boot_id,
        "t_ns": snapshot.presence.t_ns,
        "reason": snapshot.presence.reason,
        "devices": [asdict(device) for device in snapshot.presence.devices],
    }


def _checksum(body: dict[str, Any]) -> int:
    return zlib.crc32(json.dumps(body, sort_keys=True).encode())


def _reason(error: OSError) -> str:
    return (error.strerror or str(error)).lower()


def _free_name(path: Path) -> Path:
    for number in range(1, _ASIDE_LIMIT):
        aside = path.with_name(f"{path.name}.damaged-{number}")
        if not aside.exists():
            return aside
    return path.with_name(f"{path.name}.damaged-{_ASIDE_LIMIT}")
