"""The shoot-out: all listeners get the same storm, also a command of the user's."""

from __future__ import annotations

import shutil
from typing import Any

import pytest

from plugmeter.bench.shootout import compare
from plugmeter.bench.storm import Storm
from tests.namespace import in_namespace


def test_each_listener_gets_each_storm() -> None:
    told: list[Any] = []
    found = in_namespace(lambda: compare(["plugmeter", "pyudev", "plain"], Storm(3, 50), 2, told.append))
    assert [each.listener for each in found] == ["plugmeter", "pyudev", "plain"]
    for each in found:
        assert len(each.trials) == 2
        assert each.emitted == 2 * 3 * 32
        assert each.lost == 0
        assert each.as_json()["loss_ci95"][0] == 0


def test_a_command_that_prints_a_line_an_event() -> None:
    if shutil.which("udevadm") is None:
        pytest.skip("needs udevadm (Debian package udev)")
    (found,) = in_namespace(lambda: compare(["udevadm monitor --kernel"], Storm(3, 50), 1))
    assert (found.emitted, found.lost) == (96, 0)
    assert found.trials[0].devices_received == 6
