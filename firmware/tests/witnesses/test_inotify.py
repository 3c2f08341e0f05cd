import select
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from plugmeter.errors import PlugmeterError
from plugmeter.records import Gap, NodeEvent
from plugmeter.witnesses.inotify import InotifyWitness
from tests.namespace import CLONE_NEWUSER, in_child, in_user_namespace, unshare

Open = Callable[..., InotifyWitness]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    dev = tmp_path / "dev"
    dev.mkdir()
    return dev


@pytest.fixture
def watching() -> Iterator[Open]:
    opened: list[InotifyWitness] = []

    def make(*directories: Path, follow: bool = False) -> InotifyWitness:
        opened.append(InotifyWitness(directories, follow=follow))
        return opened[-1]

    yield make
    for witness in opened:
        witness.close()


def drain(witness: InotifyWitness) -> list[NodeEvent | Gap]:
    records: list[NodeEvent | Gap] = []
    while select.select([witness], [], [], 0)[0]:
        records += witness.read()
    return records


def told(witness: InotifyWitness) -> list[tuple[str, str]]:
    return [
        (record.action, record.name) if isinstance(record, NodeEvent) else ("gap", record.cause)
        for record in drain(witness)
    ]


def test_a_node_comes_changes_and_goes(root: Path, watching: Open) -> None:
    witness = watching(root)
    (root / "sda").touch()
    (root / "sda").chmod(0o640)
    (root / "sda").rename(root / "sdb")
    (root / "sdb").unlink()
    assert told(witness) == [
        ("create", "sda"),
        ("attrib", "sda"),
        ("delete", "sda"),
        ("create", "sdb"),
        ("delete", "sdb"),
    ]
    assert (witness.tally().offered, witness.tally().pending) == (5, 0)


def test_names_are_relative_to_the_first_directory_or_whole(root: Path, watching: Open) -> None:
    inside, outside = root / "bus", root.parent / "other"
    inside.mkdir()
    outside.mkdir()
    witness = watching(root, inside, outside)
    (inside / "004").touch()
    (outside / "x").symlink_to("nowhere")
    assert told(witness) == [("create", "bus/004"), ("create", str(outside / "x"))]


def test_directories_are_no_records_and_not_followed_unless_asked(root: Path, watching: Open) -> None:
    witness = watching(root)
    (root / "bus").mkdir()
    (root / "bus" / "004").touch()
    (root / "bus" / "004").unlink()
    (root / "bus").chmod(0o700)
    (root / "bus").rmdir()
    assert told(witness) == []
    assert witness.tally().offered == 0
    assert witness.housekeeping == 3


def test_subdirectories_are_followed_both_old_and_new(root: Path, watching: Open) -> None:
    (root / "bus/usb/001").mkdir(parents=True)
    (root / "bus/usb/001/001").touch()
    witness = watching(root, follow=True)
    (root / "bus/usb/001/002").touch()
    (root / "bus/usb/002").mkdir()
    (root / "bus/usb/002/001").touch()
    assert told(witness) == [("create", "bus/usb/001/002"), ("create", "bus/usb/002/001")]
    (root / "bus/usb/002/001").unlink()
    (root / "bus/usb/002/001").touch()
    (root / "bus/usb/002/003").touch()
    assert told(witness) == [
        ("delete", "bus/usb/002/001"),
        ("create", "bus/usb/002/001"),
        ("create", "bus/usb/002/003"),
    ]
    assert witness.directories == tuple(root / part for part in ("", "bus", "bus/usb", *_BUSES))


_BUSES = ("bus/usb/001", "bus/usb/002")


def test_a_link_that_is_replaced_by_renaming_is_told_each_time(root: Path, watching: Open) -> None:
    """udevd puts its links in place so; a link that a listing told of must not silence the next."""
    witness = watching(root, follow=True)
    (root / "disk").mkdir()
    (root / "disk/by-id").symlink_to("a")
    assert told(witness) == [("create", "disk/by-id")]
    (root / "disk/new").symlink_to("b")
    (root / "disk/new").rename(root / "disk/by-id")
    assert told(witness) == [("create", "disk/new"), ("delete", "disk/new"), ("create", "disk/by-id")]


def test_each_name_in_a_new_directory_is_told_once_however_the_race_ends(root: Path, watching: Open) -> None:
    """Another process makes directories and fills them while we read, watch and list."""
    witness = watching(root, follow=True)
    script = (
        "import os, sys\n"
        "for d in range(40):\n"
        "    os.makedirs(f'{sys.argv[1]}/{d}/deep')\n"
        "    for n in range(40):\n"
        "        open(f'{sys.argv[1]}/{d}/{n}', 'w').close()\n"
        "        open(f'{sys.argv[1]}/{d}/deep/{n}', 'w').close()\n"
    )
    writer = subprocess.Popen([sys.executable, "-c", script, str(root)])
    records: list[NodeEvent | Gap] = []
    while writer.poll() is None:
        records += witness.read()
    records += drain(witness)
    assert writer.returncode == 0
    created = Counter((r.action, r.name) for r in records if isinstance(r, NodeEvent))
    made = {f"{d}/{sub}{n}" for d in range(40) for n in range(40) for sub in ("", "deep/")}
    assert created == Counter(("create", name) for name in made)
    assert len(records) == witness.tally().offered == len(made)


def test_a_directory_gone_before_it_could_be_watched_is_a_gap(root: Path, watching: Open) -> None:
    witness = watching(root, follow=True)
    (root / "bus").mkdir()
    (root / "bus/004").touch()
    (root / "bus/004").unlink()
    (root / "bus").rmdir()
    assert told(witness) == [("gap", "directory_vanished")]


def test_a_directory_moved_within_is_told_by_its_new_name(root: Path, watching: Open) -> None:
    (root / "bus/usb").mkdir(parents=True)
    (root / "bus/usb/004").touch()
    witness = watching(root, follow=True)
    (root / "bus").rename(root / "coach")
    assert told(witness) == [("create", "coach/usb/004")]
    (root / "coach/usb/004").unlink()
    assert told(witness) == [("delete", "coach/usb/004")]
    assert witness.directories == (root, root / "coach", root / "coach/usb")


def test_what_happened_in_a_moved_directory_before_we_knew_is_a_gap(root: Path, watching: Open) -> None:
    (root / "bus").mkdir()
    witness = watching(root, follow=True)
    (root / "bus").rename(root.parent / "away")
    (root.parent / "away/004").touch()
    assert told(witness) == [("gap", "directory_unwatched")]


@pytest.mark.parametrize("how", ["removed", "moved"])
def test_a_watched_root_that_goes_is_a_gap(root: Path, watching: Open, how: str) -> None:
    (root / "bus").mkdir()
    witness = watching(root, follow=True)
    if how == "removed":
        (root / "bus").rmdir()
        root.rmdir()
    else:
        root.rename(root.parent / "away")
    assert told(witness) == [("gap", "watch_lost")]
    assert witness.directories == ()


def test_an_overflow_is_a_gap_and_the_account_still_balances(root: Path, watching: Open) -> None:
    limit = int(Path("/proc/sys/fs/inotify/max_queued_events").read_text())
    if limit > 200_000:
        pytest.skip(f"needs fs.inotify.max_queued_events below 200000, and it is {limit}")
    witness = watching(root, follow=True)
    for number in range(limit // 2 + 100):
        (root / f"n{number}").touch()
        (root / f"n{number}").unlink()
    (root / "bus").mkdir()
    (root / "bus/004").touch()
    first = witness.read()
    assert 0 < len(first) < limit  # one call does not take it all
    records = first + drain(witness)
    gaps = [record for record in records if isinstance(record, Gap)]
    assert [(gap.cause, gap.count) for gap in gaps] == [("inotify_queue", None)]
    assert gaps[0].since_ns <= gaps[0].t_ns
    assert witness.tally().offered == len(records) - 1
    # The new directory's own event was lost with the rest, and it is found nevertheless.
    assert records[-1] == NodeEvent(t_ns=records[-1].t_ns, action="create", name="bus/004")
    (root / "bus/005").touch()
    assert told(witness) == [("create", "bus/005")]


def test_a_directory_that_is_not_there_is_one_clear_line(root: Path) -> None:
    with pytest.raises(PlugmeterError, match=r"nowhere: there is no such directory$"):
        InotifyWitness((root, root / "nowhere"))
    (root / "file").touch()
    with pytest.raises(PlugmeterError, match=r"file: there is no such directory$"):
        InotifyWitness((root / "file",))
    with pytest.raises(PlugmeterError, match=r"name at least one"):
        InotifyWitness(())


def _with_limit(name: str, limit: int, body: Callable[[], str]) -> str:
    def limited() -> str:
        try:
            Path(f"/proc/sys/user/{name}").write_text(str(limit))
        except OSError as error:
            pytest.skip(f"needs a writable /proc/sys/user/{name}: {error.strerror}")
        return body()

    return in_user_namespace(limited)


def _refusal(root: Path) -> str:
    with pytest.raises(PlugmeterError) as caught:
        InotifyWitness((root,), follow=True)
    return str(caught.value)


def test_a_used_up_limit_names_the_sysctl_to_raise(root: Path) -> None:
    (root / "bus").mkdir()
    none_left = _with_limit("max_inotify_watches", 1, lambda: _refusal(root))
    assert "fs.inotify.max_user_watches" in none_left
    assert "\n" not in none_left
    no_instance = _with_limit("max_inotify_instances", 0, lambda: _refusal(root))
    assert "fs.inotify.max_user_instances" in no_instance
    assert "\n" not in no_instance


def test_a_new_directory_beyond_the_limit_is_a_gap(root: Path) -> None:
    def body() -> str:
        witness = InotifyWitness((root,), follow=True)
        (root / "bus").mkdir()
        return repr(told(witness))

    assert _with_limit("max_inotify_watches", 1, body) == repr([("gap", "directory_unwatched")])


def test_a_subdirectory_that_may_not_be_read_is_named(root: Path) -> None:
    (root / "secret").mkdir(mode=0o000)

    def body() -> tuple[Path, ...]:
        # An empty capability set: even uid 0 is then held to the directory's mode.
        try:
            unshare(CLONE_NEWUSER)
        except OSError as error:
            pytest.skip(f"needs a user namespace of its own: {error.strerror}")
        return InotifyWitness((root,), follow=True).unwatched

    assert in_child(body) == (root / "secret",)
