"""The topics: one versioned tree, ``plugmeter/v1/<device>/...``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

ROOT: Final = "plugmeter/v1"


@dataclass(frozen=True, slots=True)
class Topics:
    """The topics of one device."""

    device: str

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
