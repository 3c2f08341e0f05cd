"""The unit files, as the systemd of the image reads them."""

from __future__ import annotations

import json
import re

import pytest

from tests.systemd.container import Container

EBPF = "/etc/systemd/system/plugmeter.service.d/ebpf.conf"


def exposure(box: Container, unit: str) -> float:
    """systemd's own figure: 0 is all shut, 10 all open."""
    said = box.run("systemd-analyze", "security", "--no-pager", "--offline=true", unit, check=False).stdout
    found = re.search(r"Overall exposure level for \S+: ([\d.]+)", said)
    assert found, said
    return float(found[1])


def test_the_container_boots_without_a_failed_unit(box: Container) -> None:
    failed = box.run("systemctl", "list-units", "--failed", "--no-legend", "--plain").stdout
    assert failed == ""


def test_systemd_finds_nothing_to_complain_of(box: Container) -> None:
    done = box.run(
        "systemd-analyze", "verify", "plugmeter.service", "plugmeter-selftest.socket",
        "plugmeter-selftest@0.service", check=False,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize(
    ("unit", "most"), [("plugmeter.service", 1.5), ("plugmeter-selftest@0.service", 1.0)]
)
def test_the_sandbox_is_tight(box: Container, unit: str, most: float) -> None:
    assert exposure(box, unit) <= most


def test_the_sandbox_is_tight_enough_with_ebpf_allowed(box: Container) -> None:
    box.run("mkdir", "-p", EBPF.rpartition("/")[0])
    box.run("ln", "-s", "/usr/lib/plugmeter/ebpf.conf", EBPF)
    try:
        assert 1.5 < exposure(box, "plugmeter.service") <= 2.0
    finally:
        box.run("rm", EBPF)


def test_the_user_and_the_folders_are_there(box: Container) -> None:
    assert box.run("getent", "passwd", "plugmeter").stdout.count("nologin") == 1
    shown = box.run("stat", "--format=%U %a", "/var/lib/plugmeter", "/etc/plugmeter").stdout
    assert shown.splitlines() == ["plugmeter 750", "root 755"]


def test_the_self_test_runs_for_whom_it_is_meant(box: Container) -> None:
    box.run("systemctl", "start", "plugmeter-selftest.socket")
    ask = (
        "import socket; s = socket.socket(socket.AF_UNIX); s.connect('/run/plugmeter-selftest.sock');"
        " print(s.makefile().read())"
    )
    done = box.run(
        "setpriv", "--reuid=plugmeter", "--regid=plugmeter", "--clear-groups", "python3", "-c", ask
    )
    assert json.loads(done.stdout)["passed"] is True
    refused = box.run(
        "setpriv", "--reuid=nobody", "--regid=nogroup", "--clear-groups", "python3", "-c", ask, check=False
    )
    assert "PermissionError" in refused.stderr
