"""The loop of a run, against bursts that have nothing to do with it."""

from __future__ import annotations

import os
from dataclasses import replace
from typing import Any

import pytest

from plugmeter import config, equipment
from plugmeter.equipment import Plan
from plugmeter.measure import report
from plugmeter.measure.pipeline import Pipeline
from plugmeter.rigs.injection import Injector
from plugmeter.run import Stop, measure
from tests.namespace import in_child

HARMLESS = b"change@/devices/virtual/x\0ACTION=change\0DEVPATH=/devices/virtual/x\0SUBSYSTEM=mem\0"
A_DEVICE = (
    b"add@/devices/x/usb1/1-9\0ACTION=add\0DEVPATH=/devices/x/usb1/1-9\0SUBSYSTEM=usb\0DEVTYPE=usb_device\0"
)


def run_with_a_burst(payload: bytes, count: int) -> dict[str, Any]:
    """A short injected run; when it is under way, another process floods the kernel's group."""
    settings = config.default()
    settings = replace(settings, rig=config.with_rig(settings.rig, {"sticks": 4, "ports": 2}))
    flooding: list[int] = []

    def flood(pipeline: Pipeline, done: int, total: int) -> None:
        if flooding or done < 2:
            return
        flooding.append(os.fork())
        if flooding[0] == 0:
            with Injector() as injector:
                for _ in range(count):
                    injector.inject(payload)
            os._exit(0)

    with equipment.equipment(settings, Plan("injected")) as gear:
        finished = measure(gear, Stop(), flood)
    os.waitpid(flooding[0], 0)
    return report.build(finished)


@pytest.mark.parametrize(("payload", "count"), [(HARMLESS, 6000), (A_DEVICE, 3000)])
def test_a_burst_of_others_costs_the_run_nothing(payload: bytes, count: int) -> None:
    made = in_child(lambda: run_with_a_burst(payload, count))
    assert made["certificate"]["reasons"] == []
    assert made["conservation"] == {"holds": True, "violations": []}
    lost = sum(made["lost"].values())
    assert (made["expected"], made["captured"] + lost) == (8, 8)
    overrun = any(account["lost"] for account in made["witnesses"].values())
    # An ordinary user's buffers may overrun, and what that costs is named; root's hold all of it.
    assert lost == 0 or overrun
    assert not overrun or os.geteuid() != 0
    assert made["witnesses"]["netlink"]["offered"] >= made["emitted"] + count
