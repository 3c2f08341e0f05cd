"""How often an interrupt fired, from /proc/interrupts (man 5 proc_interrupts, kernel/irq/proc.c).

A GPIO line that is requested with edge detection has an interrupt of its own, and the kernel names
its action after the consumer label of the request (edge_detector_setup, drivers/gpio/gpiolib-cdev.c;
a ``/`` becomes ``:``). The count is of *hard* interrupts: two that came before the line's thread ran
make one event with one number, so only this count can tell that an edge was merged away.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

PROC_INTERRUPTS = Path("/proc/interrupts")

_ROW = re.compile(r"\s*(\d+):((?:\s+\d+)*)(.*)")


@dataclass(frozen=True, slots=True)
class InterruptRow:
    """One numbered interrupt: its count over all CPUs, and the names of its actions (its consumers)."""

    irq: int
    count: int
    actions: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Interrupts:
    """All numbered interrupts at one moment; those of the architecture (LOC, IPI0, ERR) have no consumer."""

    rows: tuple[InterruptRow, ...] = ()

    def count_for(self, label: str) -> int | None:
        """How often the interrupts of this consumer fired, over all CPUs; None where nobody has that name.

        An interrupt shared with others counts whole: the kernel does not keep them apart.
        """
        name = label.replace("/", ":")
        counts = [row.count for row in self.rows if name in row.actions]
        return sum(counts) if counts else None


def parse_interrupts(text: str) -> Interrupts:
    """Parse the text of /proc/interrupts. Total: lines of any other shape are passed over.

    The first line has one column a CPU that is online. A row has as many counts, then the chip and
    the trigger, and after at least two spaces the actions, separated by ", ". Without an action the
    row ends in padding.
    """
    lines = text.splitlines()
    cpus = len(lines[0].split()) if lines else 0
    rows: list[InterruptRow] = []
    for line in lines[1:]:
        match = _ROW.fullmatch(line)
        if match is None:
            continue
        # The hardware's own number may follow the counts without a word between them.
        counts = match.group(2).split()
        rest = " ".join(counts[cpus:]) + match.group(3)
        rows.append(InterruptRow(int(match.group(1)), sum(map(int, counts[:cpus])), _actions(rest)))
    return Interrupts(tuple(rows))


def _actions(rest: str) -> tuple[str, ...]:
    if not rest or rest[-1].isspace():
        return ()
    _, gap, names = rest.rpartition("  ")
    return tuple(names.strip().split(", ")) if gap else ()


def read_interrupts(path: Path = PROC_INTERRUPTS) -> Interrupts | None:
    """All interrupts now; None where the file is not there or may not be read (a container, hidepid)."""
    try:
        return parse_interrupts(path.read_text(encoding="utf-8", errors="replace"))
    except OSError:
        return None
