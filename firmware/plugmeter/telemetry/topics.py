"""The topics: one versioned tree, ``plugmeter/v1/<device>/...``."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final, NamedTuple

ROOT: Final = "plugmeter/v1"
KINDS: Final = ("status", "meta", "summary", "records", "acks", "desired", "reported")
"""The topics of one level below a device; ``cmd/<op>/<id>`` is the other kind."""
COMMAND: Final = "cmd"
DEVICE_LIMIT: Final = 63
_LEVEL_LIMIT: Final = 128
_DEVICE: Final = re.compile(r"[a-z0-9][a-z0-9_-]{0,62}").fullmatch


def is_device(name: str) -> bool:
    """Whether a device may be called so: it is one level of a topic, and part of a CloudEvent's source."""
    return _DEVICE(name) is not None


def device_of(host_name: str) -> str:
    """A device's name made of a host's (daemon.device is empty): ``Bench 3.local`` gives ``bench-3``."""
    host = host_name.partition(".")[0].lower()
    return re.sub(r"[^a-z0-9_-]", "-", host)[:DEVICE_LIMIT].lstrip("_-") or "plugmeter"


def every_device(kind: str) -> str:
    """The filter of one kind of topic of all devices; of all commands for ``cmd``."""
    return f"{ROOT}/+/{COMMAND}/+/+" if kind == COMMAND else f"{ROOT}/+/{kind}"


class Place(NamedTuple):
    """Where in the tree a message came from. ``rest`` is (op, id) of a command, and empty for other kinds."""

    device: str
    kind: str
    rest: tuple[str, ...] = ()


def parse(topic: str) -> Place | None:
    """Take a topic apart; None for one that is not of this tree, whatever it holds.

    op and id of a command are only sure to be short, printable and no wildcards: whoever obeys commands
    looks at them, and refuses them with a reason.
    """
    levels = topic.split("/", 6)
    if len(levels) < 4 or "/".join(levels[:2]) != ROOT or not is_device(levels[2]):
        return None
    device, kind, rest = levels[2], levels[3], tuple(levels[4:])
    if kind in KINDS and not rest:
        return Place(device, kind)
    if kind == COMMAND and len(rest) == 2 and all(_is_level(level) for level in rest):
        return Place(device, kind, rest)
    return None


def _is_level(level: str) -> bool:
    return 1 <= len(level) <= _LEVEL_LIMIT and level.isprintable() and not set(level) & {"+", "#", "/"}


@dataclass(frozen=True, slots=True)
class Topics:
    """The topics of one device. Raises ValueError for what is no device's name (see ``device_of``)."""

    device: str

    def __post_init__(self) -> None:
        if not is_device(self.device):
            raise ValueError(f"{self.device[:80]!r} is no device's name: a to z, 0 to 9, _ and -, at most 63")

    @property
    def base(self) -> str:
        return f"{ROOT}/{self.device}"

    @property
    def status(self) -> str:
        """Birth, last will and death on purpose; retained, by the device."""
        return f"{self.base}/status"

    @property
    def meta(self) -> str:
        """What the device is; retained, by the device."""
        return f"{self.base}/meta"

    @property
    def summary(self) -> str:
        """How it is doing: the outbox's account, the run's totals; retained, by the device."""
        return f"{self.base}/summary"

    @property
    def records(self) -> str:
        """Batches of CloudEvents; by the device."""
        return f"{self.base}/records"

    @property
    def acks(self) -> str:
        """What the controller has committed; by the controller."""
        return f"{self.base}/acks"

    @property
    def desired(self) -> str:
        """The configuration that the controller wants; retained, by the controller."""
        return f"{self.base}/desired"

    @property
    def reported(self) -> str:
        """The configuration that is in effect; retained, by the device."""
        return f"{self.base}/reported"

    def command(self, op: str, command_id: str) -> str:
        """One command and its state; retained, by the controller and then by the device."""
        return f"{self.base}/cmd/{op}/{command_id}"

    @property
    def commands(self) -> str:
        """The filter of all commands."""
        return f"{self.base}/cmd/+/+"
