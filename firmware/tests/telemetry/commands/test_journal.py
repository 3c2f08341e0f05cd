from __future__ import annotations

import random
import shutil
import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, rule

from plugmeter.errors import PlugmeterError
from plugmeter.moments import NS
from plugmeter.telemetry.commands.journal import Entry, Journal, JournalFullError
from plugmeter.telemetry.commands.message import FINAL, Command, State, admit
from tests.telemetry.commands.orders import NOW_NS


def command(number: int, *, valid_s: int = 600, issued_ns: int = NOW_NS) -> Command:
    return Command("log-level", f"c{number}", issued_ns, issued_ns + valid_s * NS, {"level": "info"}, False)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "commands.sqlite"


@pytest.fixture
def journal(path: Path) -> Iterator[Journal]:
    opened = Journal(path, NOW_NS, most_entries=20)
    yield opened
    opened.close()


def test_a_command_from_its_acceptance_to_its_end(journal: Journal) -> None:
    accepted = journal.accept(command(1), NOW_NS)
    assert accepted == Entry(
        "c1", "log-level", '{"level":"info"}', False, NOW_NS, NOW_NS + 600 * NS, NOW_NS, State.ACCEPTED, 0,
        None, None, NOW_NS,
    )  # fmt: skip
    assert journal.unfinished() == (accepted,)
    begun = journal.begin("c1", NOW_NS + 1)
    assert (begun.state, begun.attempts, begun.changed_ns) == (State.EXECUTING, 1, NOW_NS + 1)
    ended = journal.finish("c1", State.SUCCESSFUL, None, {"b": 1, "a": "ä"}, NOW_NS + 2)
    assert (ended.state, ended.result, ended.final) == (State.SUCCESSFUL, '{"a":"\\u00e4","b":1}', True)
    assert journal.find("c1") == ended
    assert journal.unfinished() == ()
    assert journal.find("c2") is None


def test_there_is_one_end_and_one_beginning(journal: Journal) -> None:
    journal.accept(command(1), NOW_NS)
    with pytest.raises(ValueError, match="in the journal already"):
        journal.accept(command(1), NOW_NS)
    ended = journal.finish("c1", State.FAILED, "why", None, NOW_NS)
    with pytest.raises(ValueError, match="has ended already"):
        journal.finish("c1", State.SUCCESSFUL, None, None, NOW_NS)
    with pytest.raises(ValueError, match="has ended already"):
        journal.begin("c1", NOW_NS)
    with pytest.raises(ValueError, match="is no end"):
        journal.finish("c1", State.REFUSED, None, None, NOW_NS)
    assert journal.find("c1") == ended


def test_what_an_operation_notes_is_there_when_it_is_begun_again(path: Path) -> None:
    journal = Journal(path, NOW_NS)
    journal.accept(command(1), NOW_NS)
    with pytest.raises(ValueError, match="has ended already, or never was"):
        journal.note("c1", {"run": "r1"})  # it was not begun
    assert journal.begin("c1", NOW_NS).note is None
    journal.note("c1", {"run": "r1"})
    journal.close()
    again = Journal(path, NOW_NS)
    assert again.begin("c1", NOW_NS).note == '{"run":"r1"}'
    assert again.note("c1", None).note is None
    again.close()


def test_it_is_all_there_when_it_is_opened_again(path: Path) -> None:
    first = Journal(path, NOW_NS)
    for number in range(5):
        first.accept(command(number), NOW_NS)
    first.begin("c3", NOW_NS)
    kept = first.unfinished()
    first.close()
    again = Journal(path, NOW_NS)
    assert again.unfinished() == kept
    assert [each.id for each in kept] == ["c0", "c1", "c2", "c3", "c4"]
    assert (again.forgotten_ns, again.lost_ns, again.set_aside) == (0, None, None)
    again.close()


def test_the_same_command_again_is_told_from_another(journal: Journal) -> None:
    entry = journal.accept(command(1), NOW_NS)
    assert entry.is_of(command(1, valid_s=10))
    assert not entry.is_of(Command("log-level", "c1", 0, 0, {"level": "debug"}, False))
    assert not entry.is_of(Command("restart", "c1", 0, 0, {"level": "info"}, False))


def test_expired_ones_make_room_and_leave_a_mark(path: Path, journal: Journal) -> None:
    for number in range(20):
        journal.accept(command(number, valid_s=100 + number), NOW_NS)
        journal.finish(f"c{number}", State.SUCCESSFUL, None, None, NOW_NS)
    with pytest.raises(JournalFullError, match="20 commands that have not expired"):
        journal.accept(command(20), NOW_NS + 100 * NS)
    assert journal.find("c20") is None
    assert journal.forgotten_ns == 0
    journal.accept(command(20), NOW_NS + 110 * NS)
    gone = [number for number in range(20) if journal.find(f"c{number}") is None]
    assert gone == [0, 1]
    assert journal.forgotten_ns == NOW_NS + 101 * NS
    again = Journal(path, NOW_NS)
    assert again.forgotten_ns == NOW_NS + 101 * NS
    again.close()


def test_what_has_no_end_is_never_forgotten(journal: Journal) -> None:
    for number in range(20):
        journal.accept(command(number), NOW_NS)
    with pytest.raises(JournalFullError):
        journal.accept(command(20), NOW_NS + 10_000 * NS)
    journal.finish("c7", State.FAILED, "why", None, NOW_NS)
    journal.accept(command(20), NOW_NS + 10_000 * NS)
    assert [each.id for each in journal.unfinished()] == [f"c{each}" for each in range(21) if each != 7]


def test_a_later_expiry_is_remembered_and_an_earlier_one_is_not(journal: Journal) -> None:
    journal.accept(command(1), NOW_NS)
    journal.prolong("c1", NOW_NS + 900 * NS)
    journal.prolong("c1", NOW_NS + 300 * NS)
    entry = journal.find("c1")
    assert entry is not None
    assert entry.expires_ns == NOW_NS + 900 * NS


@pytest.mark.parametrize("damage", [b"no database at all", b"SQLite format 3\0" + b"\xff" * 4096])
def test_a_damaged_file_is_set_aside(path: Path, damage: bytes) -> None:
    path.write_bytes(damage)
    journal = Journal(path, NOW_NS)
    assert journal.set_aside == path.with_name(f"commands.sqlite.corrupt-{NOW_NS}")
    assert journal.set_aside.read_bytes() == damage
    assert journal.lost_ns == NOW_NS
    journal.accept(command(1), NOW_NS)
    journal.close()
    again = Journal(path, NOW_NS + 1)
    assert again.lost_ns == NOW_NS
    assert again.set_aside is None
    assert again.find("c1") is not None
    again.close()


def test_a_damaged_page_is_found_when_it_is_opened(path: Path) -> None:
    journal = Journal(path, NOW_NS, most_entries=1_000)
    for number in range(300):
        journal.accept(command(number), NOW_NS)
    journal.close()
    raw = bytearray(path.read_bytes())
    raw[8_192 : 8_192 + 2_048] = random.Random(1).randbytes(2_048)
    path.write_bytes(raw)
    again = Journal(path, NOW_NS)
    assert again.lost_ns == NOW_NS
    again.close()


def test_what_another_version_wrote_is_left_alone(path: Path) -> None:
    Journal(path, NOW_NS).close()
    database = sqlite3.connect(path)
    database.execute("PRAGMA user_version = 9")
    database.close()
    before = path.read_bytes()
    with pytest.raises(PlugmeterError, match=r"another version of plugmeter \(format 9, not 2\)"):
        Journal(path, NOW_NS)
    assert path.read_bytes() == before


def test_a_place_where_none_can_be(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(
        PlugmeterError, match=r"^the journal of commands cannot be opened: .*/file is no folder"
    ):
        Journal(tmp_path / "file" / "commands.sqlite", NOW_NS)


def test_a_power_cut_between_setting_aside_and_the_mark_leaves_no_hole_for_replays(path: Path) -> None:
    path.write_bytes(b"no database at all")
    journal = Journal(path, NOW_NS)
    journal.close()
    for suffix in ("", "-wal", "-shm"):  # as if the new one had not been made yet
        path.with_name(f"{path.name}{suffix}").unlink(missing_ok=True)
    again = Journal(path, NOW_NS + 7)
    assert (again.set_aside, again.lost_ns) == (None, NOW_NS + 7)
    again.close()


def test_it_is_told_what_was_set_aside(path: Path) -> None:
    path.write_bytes(b"no database at all")
    told: list[str] = []
    Journal(path, NOW_NS, tell=told.append).close()
    assert len(told) == 1 and f"commands.sqlite.corrupt-{NOW_NS}" in told[0]


def test_a_power_cut_anywhere_leaves_all_that_was_committed(tmp_path: Path) -> None:
    """The log is cut at any byte, as it may be on disk: what was synced before is there, and nothing half."""
    place = tmp_path / "commands.sqlite"
    journal = Journal(place, NOW_NS)
    log = place.with_name("commands.sqlite-wal")
    steps = []
    for number in range(12):
        journal.accept(command(number), NOW_NS)
        steps.append((log.stat().st_size, f"c{number}", State.ACCEPTED))
        journal.begin(f"c{number}", NOW_NS)
        steps.append((log.stat().st_size, f"c{number}", State.EXECUTING))
        if number % 3:
            journal.finish(f"c{number}", State.SUCCESSFUL, None, {"n": number}, NOW_NS)
            steps.append((log.stat().st_size, f"c{number}", State.SUCCESSFUL))
    whole = log.read_bytes()
    first = steps[0][0]
    draw = random.Random(7)
    cuts = [first, len(whole), *(size + more for size, _, _ in steps for more in (0, -1))]
    cuts += [draw.randrange(first, len(whole)) for _ in range(30)]
    for number, cut in enumerate(each for each in cuts if each >= first):
        copy = tmp_path / str(number) / "commands.sqlite"
        copy.parent.mkdir()
        shutil.copyfile(place, copy)
        garbage = draw.randbytes(min(100, len(whole) - cut))  # what the disk had there before
        copy.with_name("commands.sqlite-wal").write_bytes(whole[:cut] + garbage)
        expected = {command_id: state for size, command_id, state in steps if size <= cut}
        after = Journal(copy, NOW_NS)
        assert after.set_aside is None
        found = {f"c{each}": after.find(f"c{each}") for each in range(12)}
        assert {name: entry.state for name, entry in found.items() if entry} == expected
        after.close()
    journal.close()


SYNCED = """
import sys
from pathlib import Path
from tests.telemetry.commands.test_journal import NOW_NS, Journal, State, command
journal = Journal(Path(sys.argv[1]), NOW_NS)
for step in (
    lambda: journal.accept(command(1), NOW_NS),
    lambda: journal.begin("c1", NOW_NS),
    lambda: journal.finish("c1", State.FAILED, None, None, NOW_NS),
):
    print("begin", flush=True)
    step()
    print("end", flush=True)
"""


def test_each_step_is_on_disk_when_it_returns(path: Path) -> None:
    """As the kernel sees it: the log is written and then synced, before the caller goes on."""
    if shutil.which("strace") is None:
        pytest.skip("needs strace")
    trace = path.with_name("trace")
    run = subprocess.run(
        ["strace", "-y", "-o", trace, "-e", "trace=write,pwrite64,fdatasync,fsync",
         sys.executable, "-c", SYNCED, path],
        env={"PYTHONPATH": str(Path(__file__).parents[3])}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    if "ptrace" in run.stderr:
        pytest.skip("needs the permission to trace (ptrace)")
    assert run.returncode == 0, run.stderr
    calls = trace.read_text()
    steps = calls.split('"begin\\n"')[1:]
    assert len(steps) == 3
    for step in steps:
        during = step.partition('"end\\n"')[0]
        last_write = during.rindex("-wal>, ")
        assert "sync(" in during[last_write:], during


class Replays(RuleBasedStateMachine):
    """Whatever the clock does: no command is admitted twice, whether its id is remembered or not."""

    accepted = Bundle("accepted")

    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.TemporaryDirectory()
        self.path = Path(self.folder.name) / "commands.sqlite"
        self.journal = Journal(self.path, NOW_NS, most_entries=4)
        self.now_ns = NOW_NS
        self.numbers = 0

    def teardown(self) -> None:
        self.journal.close()
        self.folder.cleanup()

    def admitted(self, asked: Command) -> bool:
        return self.journal.find(asked.id) is None and not admit(
            asked, ["log-level"], self.now_ns, self.journal.forgotten_ns, self.journal.lost_ns
        )

    @rule(target=accepted, valid_s=st.integers(1, 1_000))
    def take_on(self, valid_s: int) -> Command | None:
        self.numbers += 1
        asked = command(self.numbers, valid_s=valid_s)
        if not self.admitted(asked):
            return None
        try:
            self.journal.accept(asked, self.now_ns)
        except JournalFullError:
            return None
        return asked

    @rule(asked=accepted)
    def replay(self, asked: Command | None) -> None:
        assert asked is None or not self.admitted(asked)

    @rule(asked=accepted, end=st.sampled_from(sorted(FINAL)))
    def end(self, asked: Command | None, end: State) -> None:
        entry = asked and self.journal.find(asked.id)
        if asked and entry and not entry.final:
            self.journal.finish(asked.id, end, None, None, self.now_ns)

    @rule(by_s=st.integers(-2_000, 2_000))
    def step_the_clock(self, by_s: int) -> None:
        self.now_ns += by_s * NS

    @rule()
    def restart(self) -> None:
        self.journal.close()
        self.journal = Journal(self.path, self.now_ns, most_entries=4)


TestReplays = Replays.TestCase
TestReplays.settings = settings(max_examples=30, stateful_step_count=30, deadline=None)
