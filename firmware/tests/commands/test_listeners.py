from __future__ import annotations

import json
import os
import pty
import select
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from plugmeter.commands.listeners import View, as_value, cut, groups, render
from plugmeter.records import Listener, ListenerSample
from tests.namespace import in_namespace, inject_uevent, uevent_socket

FIRMWARE = Path(__file__).parents[2]
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(FIRMWARE)}
COMMAND = (sys.executable, "-m", "plugmeter", "listeners")


def view(
    *listeners: Listener,
    first: dict[int, int] | None = None,
    hidden: int = 0,
    overlooked: int = 0,
    malformed: int = 0,
    root: bool = False,
) -> View:
    return View(ListenerSample(1, listeners), first or {}, hidden, overlooked, malformed, root)


def test_the_table_is_aligned_and_the_worst_comes_first() -> None:
    table = render(
        view(
            Listener(812, "systemd-udevd", 1, 0, 4711),
            Listener(99, "slow", 3, 123_456, 4712),
            Listener(1, "old loser", 2, 1_000_000, 4713),
            Listener(0, "kernel", 0, 0, 1),
            first={4711: 0, 4712: 23_456, 4713: 1_000_000},
        )
    )
    assert table == (
        "PID  COMMAND        GROUP           DROPS      TOTAL  SOCKET\n"
        " 99  slow           kernel+udevd  100,000    123,456    4712\n"
        "  1  old loser      udevd               0  1,000,000    4713\n"
        "812  systemd-udevd  kernel              0          0    4711\n"
        "1 more in no group (the kernel's own, and those that only send)\n"
    )


@pytest.mark.parametrize(
    ("seen", "line"),
    [
        (
            view(Listener(0, "?", 1, 0, 5), hidden=3),
            "run with sudo to see the network namespaces of 3 processes and whose 1 of these sockets are",
        ),
        (
            view(Listener(0, "?", 1, 0, 5), root=True),
            "not to be seen from here: whose 1 of these sockets are",
        ),
        (view(overlooked=7), "7 more sockets are not shown"),
        (view(malformed=2), "2 lines of /proc/net/netlink made no sense"),
    ],
)
def test_what_cannot_be_seen_is_said_in_one_line(seen: View, line: str) -> None:
    assert line in render(seen).splitlines()


def test_nobody() -> None:
    assert render(view()) == "nobody listens to uevents here\n"


@pytest.mark.parametrize(
    ("mask", "words"), [(1, "kernel"), (2, "udevd"), (3, "kernel+udevd"), (5, "kernel+0x4"), (0, "none")]
)
def test_groups_in_words(mask: int, words: str) -> None:
    assert groups(mask) == words


LISTENERS = st.builds(
    Listener,
    st.integers(0, 2**22),
    st.text(max_size=16),
    st.integers(0, 2**32 - 1),
    st.integers(0, 2**32),
    st.integers(0, 2**32),
)


@given(st.lists(LISTENERS, max_size=6), st.integers(1, 200), st.integers(1, 50))
def test_whatever_a_program_calls_itself_the_picture_fits_the_terminal(
    listeners: list[Listener], columns: int, lines: int
) -> None:
    seen = view(*listeners, hidden=1)
    picture = cut(render(seen), columns, lines)
    assert len(picture.splitlines()) <= max(2, lines)
    assert all(len(line) <= columns and line.isprintable() for line in picture.splitlines())
    assert json.loads(json.dumps(as_value(seen)))["hidden"] == 1


def test_a_socket_that_drops_is_found_with_its_name() -> None:
    def body() -> tuple[dict[str, object], list[dict[str, object]], int]:
        with uevent_socket(1) as slow, uevent_socket() as sender:
            watching = subprocess.Popen(
                (*COMMAND, "--json", "--interval", "0.05"), stdout=subprocess.PIPE, text=True, env=ENVIRONMENT
            )
            assert watching.stdout is not None
            try:
                before = json.loads(watching.stdout.readline())
                for number in range(5000):
                    inject_uevent(sender, "add", f"/devices/none/{number}", SUBSYSTEM="none")
                inode = os.fstat(slow.fileno()).st_ino
                mine: list[dict[str, object]] = []
                for line in watching.stdout:
                    mine = [each for each in json.loads(line)["listeners"] if each["inode"] == inode]
                    if mine[0]["drops"]:
                        break
                watching.send_signal(signal.SIGINT)
                watching.communicate()
                return before, mine, watching.returncode
            finally:
                watching.kill()
                watching.wait()

    before, mine, status = in_namespace(body)
    assert all(each["drops"] == 0 for each in before["listeners"])  # type: ignore[attr-defined]  # it is JSON
    assert mine[0]["groups"] == 1
    assert mine[0]["pid"] != 0
    assert mine[0]["drops"] == mine[0]["drops_total"]
    assert status == 0


def test_on_a_terminal_it_refreshes_in_place_and_ctrl_c_ends_it_quietly() -> None:
    main, terminal = pty.openpty()
    watching = subprocess.Popen(
        (*COMMAND, "--interval", "0.05"), stdout=terminal, stderr=terminal, stdin=terminal, env=ENVIRONMENT
    )
    os.close(terminal)
    shown = b""
    try:
        while shown.count(b"\x1b[H\x1b[J") < 3 and select.select([main], [], [], 60)[0]:
            shown += os.read(main, 65536)
        watching.send_signal(signal.SIGINT)
        while select.select([main], [], [], 60)[0]:
            try:
                shown += os.read(main, 65536)
            except OSError:  # EIO: the other end is closed
                break
        assert watching.wait() == 0
    finally:
        watching.kill()
        watching.wait()
        os.close(main)
    assert shown.count(b"\x1b[H\x1b[J") >= 3
    assert b"Traceback" not in shown
    assert b"interrupted" not in shown


@pytest.mark.parametrize("interval", ["0", "-1", "nan", "inf", "1e9"])
def test_an_absurd_interval_is_one_line(interval: str) -> None:
    done = subprocess.run(
        (*COMMAND, f"--interval={interval}", "--once"),
        capture_output=True,
        text=True,
        env=ENVIRONMENT,
        check=False,
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert len(done.stderr.splitlines()) == 1


def test_once_is_one_block() -> None:
    done = subprocess.run((*COMMAND, "--once"), capture_output=True, text=True, env=ENVIRONMENT, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout
    assert "\n\n" not in done.stdout
