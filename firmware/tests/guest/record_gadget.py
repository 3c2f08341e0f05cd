"""Runs in the guest: one run with the gadget rig, recorded to a file; the report is made on the host.

The guest has no HDR histogram (it comes without an arm64 wheel), and a recording needs none.

    python3 record_gadget.py FILE STICKS CYCLES PORTS
"""

from __future__ import annotations

import sys
from dataclasses import replace

from plugmeter import config, equipment
from plugmeter.equipment import Plan
from plugmeter.recording import RecordingWriter
from plugmeter.run import Stop, measure


def main(file: str, sticks: int, cycles: int, ports: int) -> None:
    """Run, and write the recording. There is no udevd in the guest, so nobody waits for one."""
    settings = config.default()
    settings = replace(
        settings,
        witnesses=replace(settings.witnesses, udev=False),
        rig=replace(settings.rig, sticks=sticks, cycles=cycles, ports=ports, gap_ms=2500, seed=3),
    )
    with (
        open(file, "wb") as out,
        equipment.equipment(settings, Plan(rig="gadget"), RecordingWriter(out).write) as gear,
    ):
        measure(gear, Stop())


if __name__ == "__main__":
    main(sys.argv[1], *map(int, sys.argv[2:5]))
