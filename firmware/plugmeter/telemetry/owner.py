"""Whose an outbox is: the device's name, and on which machine. Its records can be sent as that device only.

A controller refuses a stream that is another device's, and two devices that go on with one stream give its
numbers twice. So a stream ends where its device gets another name (a host's new name is enough where
daemon.device is empty) or the SD card was copied for another machine.
"""

from __future__ import annotations

import hmac
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from plugmeter.files import read_regular

MACHINE_ID: Final = Path("/etc/machine-id")
_APPLICATION: Final = bytes.fromhex("9b2c51d1f6a24d3c8f0e6d2f7a415c08")
"""Ours, random, for ever."""
_ID: Final = re.compile(rb"[0-9a-f]{32}\n?").fullmatch


@dataclass(frozen=True, slots=True)
class Owner:
    """``machine`` is made of the machine's id and tells nothing of it (``machine_of``); "" if unknown."""

    device: str
    machine: str

    def change_from(self, before: Owner) -> str | None:
        """Why what was ``before``'s cannot be ours: ``copied`` (from another machine), ``renamed``, or None.
        A machine that is not known is no other one."""
        if self.machine and before.machine and self.machine != before.machine:
            return "copied"
        return "renamed" if self.device != before.device else None

    def after(self, before: Owner) -> Owner:
        """What to remember: a machine that was known stays so."""
        return Owner(self.device, self.machine or before.machine)


NOBODY: Final = Owner("", "")
"""Of an outbox that was made before there were owners: it is whoever's opens it next."""


def this_owner(device: str, machine_id: Path = MACHINE_ID) -> Owner:
    """The device of this name on this machine."""
    return Owner(device, machine_of(machine_id))


def machine_of(machine_id: Path = MACHINE_ID) -> str:
    """A hash of the machine's id for this application only, as machine-id(5) asks for and
    sd_id128_get_machine_app_specific(3) does it: HMAC-SHA256 of the application's id, with the machine's id
    as the key, the first 128 bits of it, in hexadecimal. "" where there is no id, or only one for this boot
    (systemd then mounts it over the file)."""
    try:
        if os.path.ismount(machine_id):
            return ""
        text = read_regular(machine_id, 100)
    except OSError:
        return ""
    if _ID(text) is None:  # also "uninitialized"
        return ""
    raw = bytearray(hmac.digest(bytes.fromhex(text.decode()), _APPLICATION, "sha256")[:16])
    raw[6] = raw[6] & 0x0F | 0x40  # a UUID of version 4, as systemd makes it
    raw[8] = raw[8] & 0x3F | 0x80
    return raw.hex()
