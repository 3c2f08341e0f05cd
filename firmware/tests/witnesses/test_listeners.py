import os
import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from plugmeter.errors import PlugmeterError
from plugmeter.records import Listener
from plugmeter.witnesses.listeners import ListenerScanner, sample
from plugmeter.witnesses.socket_queue import SocketQueue
from tests.namespace import (
    KERNEL_GROUP,
    UDEV_GROUP,
    in_child,
    in_namespace,
    in_user_namespace,
    inject_uevent,
    uevent_socket,
)

HEADER = "sk Eth Pid Groups Rmem Wmem Dump Locks Drops Inode\n"


def inode_of(sock: socket.socket) -> int:
    return os.fstat(sock.fileno()).st_ino


@pytest.mark.parametrize("inside", [in_namespace, in_user_namespace], ids=["root", "user"])
def test_drops_are_what_the_sockets_themselves_say(inside: Callable[[Callable[[], None]], None]) -> None:
    def body() -> None:
        sender = uevent_socket()
        sockets = [uevent_socket(KERNEL_GROUP), uevent_socket(KERNEL_GROUP | UDEV_GROUP)]
        queues = [SocketQueue(one) for one in sockets]
        for queue, size in zip(queues, (2048, 16384), strict=True):
            queue.grow(size)
        scanner = ListenerScanner()
        totals = [0, 0]
        for _ in range(3):
            for _ in range(300):
                inject_uevent(sender, "add", "/devices/x", SUBSYSTEM="usb")
            totals = [total + queue.new_drops() for total, queue in zip(totals, queues, strict=True)]
            seen = {listener.inode: listener for listener in scanner.sample().listeners}
            assert [seen[inode_of(one)].drops for one in sockets] == totals
        assert totals[0] > totals[1] > 0
        mine = Path("/proc/self/comm").read_text().strip()
        assert [(seen[inode_of(one)].pid, seen[inode_of(one)].comm) for one in sockets] == [
            (os.getpid(), mine)
        ] * 2
        assert [seen[inode_of(one)].groups for one in sockets] == [1, 3]

    inside(body)


def test_the_kernels_own_socket_is_marked() -> None:
    def body() -> list[Listener]:
        return [one for one in sample().listeners if one.comm == "kernel"]

    kernels = in_namespace(body)
    assert kernels
    assert {(one.pid, one.groups) for one in kernels} == {(0, 0)}


class Proc:
    """A /proc of our own making, with real links and files."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def process(self, pid: int, comm: str, namespace: int, *inodes: int) -> None:
        home = self.root / str(pid)
        (home / "ns").mkdir(parents=True)
        (home / "net").mkdir()
        (home / "fd").mkdir()
        (home / "comm").write_text(comm + "\n")
        (home / "ns/net").symlink_to(f"net:[{namespace}]")
        (home / "fd/0").symlink_to("/dev/null")
        for number, inode in enumerate(inodes, start=3):
            (home / f"fd/{number}").symlink_to(f"socket:[{inode}]")

    def table(self, pid: int, *rows: tuple[int, int, int, int]) -> None:
        lines = [f"0 15 {port} {groups:08x} 0 0 0 2 {drops} {inode}\n" for port, groups, drops, inode in rows]
        (self.root / str(pid) / "net/netlink").write_text(HEADER + "".join(lines))


@pytest.fixture
def proc(tmp_path: Path) -> Proc:
    return Proc(tmp_path)


def test_each_namespace_is_read_once_and_joined_to_processes(proc: Proc) -> None:
    proc.process(1, "systemd", 100, 11)
    proc.process(250, "(udev-worker)", 100, 11)
    proc.process(200, "systemd-udevd", 100, 11)
    proc.process(300, "snapd", 200, 12)
    rows = [(0, 0, 0, 10), (1, 1, 5, 11), (77, 2, 0, 13)]
    proc.table(1, *rows)
    proc.table(200, (9, 1, 9, 99))  # the same namespace: must not be read a second time
    proc.table(300, (0, 0, 0, 20), (300, 2, 7, 12))
    scanner = ListenerScanner(proc.root)
    expected = (
        Listener(pid=0, comm="kernel", groups=0, drops=0, inode=10),
        Listener(pid=200, comm="systemd-udevd", groups=1, drops=5, inode=11),
        Listener(pid=300, comm="snapd", groups=2, drops=7, inode=12),
        Listener(pid=0, comm="?", groups=2, drops=0, inode=13),
        Listener(pid=0, comm="kernel", groups=0, drops=0, inode=20),
    )
    for _ in range(3):
        assert scanner.sample().listeners == expected
    assert scanner.walks == 1

    (proc.root / "200/fd/3").unlink()  # udevd gave it up, the worker has it still
    assert [one.pid for one in scanner.sample().listeners if one.inode == 11] == [250]
    assert scanner.walks == 2
    proc.table(1, *rows[:1])  # the sockets are gone
    assert [one.inode for one in scanner.sample().listeners] == [10, 12, 20]
    assert scanner.walks == 2


def test_a_socket_of_systemd_alone_is_systemds(proc: Proc) -> None:
    proc.process(1, "systemd", 100, 11)
    proc.table(1, (1, 1, 5, 11))
    assert [(one.pid, one.comm) for one in sample(proc.root).listeners] == [(1, "systemd")]


def test_a_namespace_whose_first_process_ended_is_read_through_the_next(proc: Proc) -> None:
    proc.process(200, "gone", 100)
    proc.process(300, "there", 100, 12)
    proc.table(300, (300, 2, 7, 12))
    assert [one.comm for one in sample(proc.root).listeners] == ["there"]


def test_nonsense_is_counted(proc: Proc) -> None:
    proc.process(200, "x", 100)
    proc.table(200, (1, 1, 0, 5))
    with open(proc.root / "200/net/netlink", "a") as table:
        table.write("0 15 what\n")
    scanner = ListenerScanner(proc.root)
    for _ in range(2):
        assert len(scanner.sample().listeners) == 1
        assert scanner.malformed == 1


def test_more_sockets_than_we_keep_are_counted(proc: Proc) -> None:
    proc.process(200, "leaky", 100)
    proc.table(200, *[(inode, 1, 0, inode) for inode in range(1, 4101)])
    scanner = ListenerScanner(proc.root)
    assert len(scanner.sample().listeners) == 4096
    assert scanner.overlooked == 4


@pytest.mark.privileged
def test_what_an_ordinary_user_may_not_see_is_tolerated() -> None:
    """Our own namespace shows everybody's sockets, but not whose they are."""
    if os.geteuid() != 0:
        pytest.skip("needs root, to become another user")

    def body() -> tuple[list[list[tuple[int, str]]], int, int]:
        theirs = uevent_socket(KERNEL_GROUP)

        def as_nobody() -> tuple[list[list[tuple[int, str]]], int, int]:
            inode = inode_of(theirs)
            theirs.close()  # our copy: the parent has it still
            os.setgroups([])
            os.setresgid(65534, 65534, 65534)
            os.setresuid(65534, 65534, 65534)
            scanner = ListenerScanner()
            found = [scanner.sample().listeners for _ in range(2)]
            owners = [[(one.pid, one.comm) for one in many if one.inode == inode] for many in found]
            return owners, scanner.hidden, scanner.walks

        return in_child(as_nobody)

    owners, hidden, walks = in_namespace(body)
    assert owners == [[(0, "?")]] * 2
    assert hidden > 0
    assert walks == 1


def test_without_a_proc_there_is_one_clear_line(tmp_path: Path) -> None:
    with pytest.raises(PlugmeterError, match="cannot list"):
        sample(tmp_path / "nowhere")
