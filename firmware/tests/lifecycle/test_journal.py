"""journald's protocol on a real datagram socket, and logging that never waits."""

from __future__ import annotations

import logging
import os
import socket
import struct
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from plugmeter.lifecycle.audit import SIGNAL_MESSAGE_ID, SignalReceived, TransitionMade
from plugmeter.lifecycle.journal import (
    VALUE_BYTES,
    Journal,
    JournalHandler,
    StderrHandler,
    encode,
    fields,
)
from plugmeter.lifecycle.stages import Event, Stage


def decode(data: bytes) -> dict[str, str]:
    """As journald reads it."""
    found = {}
    while data:
        line, _, rest = data.partition(b"\n")
        name, equals, value = line.partition(b"=")
        if not equals:
            (size,) = struct.unpack("<Q", rest[:8])
            value, rest = rest[8 : 8 + size], rest[8 + size :]
            assert rest[:1] == b"\n"
            rest = rest[1:]
        found[name.decode()] = value.decode()
        data = rest
    return found


def read(listener: Any) -> dict[str, str]:
    """The next message, from its datagram or its file."""
    data, descriptors, _, _ = socket.recv_fds(listener.socket, 1 << 20, 1)
    if descriptors:
        assert data == b""
        with open(descriptors[0], "rb") as file:
            with pytest.raises(OSError):
                os.write(file.fileno(), b"x")  # sealed
            data = os.pread(file.fileno(), 1 << 24, 0)
    return decode(data)


names = st.from_regex(r"[A-Z][A-Z0-9_]{0,63}", fullmatch=True)


@given(st.dictionaries(names, st.text(st.characters(codec="utf-8"), max_size=200), max_size=6))
def test_what_is_encoded_can_be_decoded(message: dict[str, str]) -> None:
    assert decode(encode(message)) == message


def test_line_breaks_take_the_binary_form_and_cannot_forge_a_field() -> None:
    data = encode({"MESSAGE": "a\nPRIORITY=0", "PRIORITY": "6"})
    assert data == b"MESSAGE\n" + struct.pack("<Q", 12) + b"a\nPRIORITY=0\nPRIORITY=6\n"


@pytest.mark.parametrize("name", ["", "message", "_PID", "A-B", "A\n", "Ä", "A" * 65])
def test_names_that_journald_would_ignore_are_a_mistake(name: str) -> None:
    with pytest.raises(ValueError, match="no name of a field"):
        encode({name: "x"})


def test_a_value_that_is_too_long_says_so() -> None:
    value = decode(encode({"MESSAGE": "é" * VALUE_BYTES}))["MESSAGE"]
    assert value.endswith("é [cut]")
    assert len(value.encode()) <= VALUE_BYTES
    assert decode(encode({"MESSAGE": "\ud800"}))["MESSAGE"] == "\\ud800"


@pytest.fixture
def logger(listener: Any) -> Iterator[tuple[logging.Logger, Journal]]:
    journal = Journal(listener.path)
    logger = logging.Logger("plugmeter.test")
    logger.addHandler(JournalHandler(journal))
    yield logger, journal
    journal.close()


def test_log_records_with_fields(listener: Any, logger: tuple[logging.Logger, Journal]) -> None:
    logger[0].warning(
        "%d lost", 3, extra=fields({"MESSAGE_ID": SIGNAL_MESSAGE_ID, "PLUGMETER_STAGE": "running"})
    )
    found = read(listener)
    assert found["MESSAGE"] == "3 lost"
    assert found["PRIORITY"] == "4"
    assert found["SYSLOG_IDENTIFIER"] == "plugmeter"
    assert found["MESSAGE_ID"] == SIGNAL_MESSAGE_ID
    assert found["PLUGMETER_STAGE"] == "running"
    assert found["CODE_FUNC"] == "test_log_records_with_fields"
    assert found["CODE_FILE"] == __file__


def test_a_traceback_is_one_message(listener: Any, logger: tuple[logging.Logger, Journal]) -> None:
    try:
        raise ZeroDivisionError("a defect")
    except ZeroDivisionError:
        logger[0].exception("it failed")
    found = read(listener)
    assert found["MESSAGE"].startswith("it failed\nTraceback (most recent call last):\n")
    assert found["MESSAGE"].endswith("ZeroDivisionError: a defect")
    assert found["PRIORITY"] == "3"


def test_what_no_datagram_can_hold_goes_as_a_sealed_file(listener: Any) -> None:
    journal = Journal(listener.path)
    message = {f"FIELD_{n}": "x" * VALUE_BYTES for n in range(40)}
    assert journal.send(message)
    assert read(listener) == message
    journal.close()


def test_a_journal_that_does_not_read_costs_messages_and_says_how_many(
    listener: Any, logger: tuple[logging.Logger, Journal]
) -> None:
    full = listener.fill()
    for number in range(5):
        logger[0].info("lost %d", number)
    assert (logger[1].sent, logger[1].failures) == (0, 5)
    for _ in range(full):
        listener.receive()
    logger[0].info("heard")
    assert read(listener)["MESSAGE"] == "5 messages before this one could not be written to the journal"
    assert read(listener)["MESSAGE"] == "heard"
    logger[0].info("and again")
    assert read(listener)["MESSAGE"] == "and again"


def test_a_journal_that_is_not_there(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "nothing")
    assert not journal.send({"MESSAGE": "x"})
    assert not journal.send({"MESSAGE": "x" * VALUE_BYTES})
    assert journal.failures == 2
    journal.close()


def test_a_reader_of_standard_error_that_does_not_read_stops_nothing() -> None:
    reading, writing = os.pipe()
    file = open(writing, "w")  # noqa: SIM115
    handler = StderrHandler(file)
    logger = logging.Logger("plugmeter.test")
    logger.addHandler(handler)
    count = 0
    while handler.failures < 10:
        logger.info("%s", "x" * 1000)
        count += 1
    assert len(os.read(reading, 1 << 20)) >= (count - 10) * 1000
    logger.info("heard")
    said = os.read(reading, 1 << 20).decode().splitlines()
    assert said[-2:] == ["plugmeter: 10 messages before this one could not be written", "plugmeter: heard"]
    os.close(reading)
    logger.info("for nobody")
    assert handler.failures == 11
    file.close()


_PROGRAM = """
import logging, sys
from pathlib import Path
from plugmeter.lifecycle import journal
journal.install("info", Path(sys.argv[1]))
logging.getLogger("x").debug("too fine")
logging.getLogger("x").info("said")
journal.set_level("error")
logging.getLogger("x").warning("not grave enough")
"""


def test_the_journal_is_used_where_standard_error_is_the_journal(listener: Any) -> None:
    """JOURNAL_STREAM names the device and inode of standard error, here of a socket pair."""
    ours, theirs = socket.socketpair()
    status = os.fstat(theirs.fileno())
    for stream, direct in ((f"{status.st_dev}:{status.st_ino}", True), (f"{status.st_dev}:1", False)):
        subprocess.run(
            [sys.executable, "-c", _PROGRAM, str(listener.path)],
            stderr=theirs.fileno(),
            env={**os.environ, "JOURNAL_STREAM": stream},
            check=True,
        )
        if direct:
            assert read(listener)["MESSAGE"] == "said"
        else:
            assert ours.recv(1000) == b"plugmeter: said\n"
    assert listener.all() == []
    ours.close()
    theirs.close()


def test_a_signal_and_a_transition_as_fields_and_as_data() -> None:
    received = SignalReceived(15, "SIGTERM", 1, 0, "", Stage.RUNNING, 1_700_000_000_123_456_789)
    made = TransitionMade(Stage.RUNNING, Event.TERM, Stage.TERMINATING, "why", 1.5, 1_700_000_000_000_000_000)
    for each in (received, made):
        assert decode(encode(each.fields())) == each.fields()
        assert "\n" not in each.text()
    assert received.text() == "SIGTERM from an unknown command (pid 1, uid 0) while running"
    assert received.data()["time"] == "2023-11-14T22:13:20.123456Z"
    assert made.text() == "running -> terminating (term) after 1.500 s: why"
    assert made.data() == {
        "from": "running",
        "event": "term",
        "to": "terminating",
        "reason": "why",
        "spent_s": 1.5,
        "time": "2023-11-14T22:13:20.000000Z",
    }


def test_the_whole_life_in_the_journal(launch: Any, listener: Any) -> None:
    """A toy whose standard error is not the journal writes plain lines, and none of them is a traceback."""
    toy = launch().running()
    toy.process.terminate()
    assert toy.finish() == 0
    lines = toy.stderr().splitlines()
    assert [line.split(" after ")[0] for line in lines if "->" in line] == [
        "plugmeter: initializing -> running (ready)",
        "plugmeter: running -> terminating (term)",
        "plugmeter: terminating -> draining (dry)",
        "plugmeter: draining -> stopped (drained)",
    ]
    assert any(line.startswith("plugmeter: SIGTERM from ") for line in lines)
