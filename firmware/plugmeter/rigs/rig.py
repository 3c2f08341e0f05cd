"""What every rig is: something that plugs and unplugs on its own thread, and logs what it drove."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from plugmeter.records import Driven, Truth


class Rig(Protocol):
    """Plugs and pulls on ``ports`` between ``start`` and the end of its plan, ``stop`` or a failure.

    A run that uses a rig whose ``failure`` is set is INVALID.
    """

    @property
    def name(self) -> str: ...

    @property
    def truth(self) -> Truth:
        """Whether a sense line of the real VBUS stands behind the edges, or the rig itself."""
        ...

    @property
    def ports(self) -> tuple[str, ...]:
        """The USB ports it uses, by sysname (1-1.4)."""
        ...

    @property
    def finished(self) -> bool:
        """Nothing more will be plugged: the plan is done, was stopped, or failed."""
        ...

    @property
    def failure(self) -> str | None:
        """One line when it died midway, else None."""
        ...

    @property
    def emitted(self) -> int | None:
        """How many uevents it put on the kernel's group itself; None where it cannot know."""
        ...

    @property
    def plan(self) -> dict[str, int | float | str]:
        """Its parameters, as the report shows them."""
        ...

    def start(self) -> None:
        """Begin; once only. Raises RigError when it cannot."""
        ...

    def read(self) -> Sequence[Driven]:
        """What it drove since the last call, oldest first. Read on: a rig that nobody reads waits."""
        ...

    def progress(self) -> tuple[int, int]:
        """Plugs and pulls done, and in all; (0, 0) where there is no plan."""
        ...

    def stop(self) -> None:
        """End the plan early, within a second; also after the end, and more than once."""
        ...

    def close(self) -> None:
        """Stop, and give back everything; a second call does nothing."""
        ...
