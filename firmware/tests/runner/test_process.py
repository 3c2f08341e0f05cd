from __future__ import annotations

import os
import signal
import sys
from collections.abc import Collection, Sequence
from pathlib import Path

import pytest

from plugmeter.errors import PlugmeterError
from plugmeter.runner.process import Process, own_command

GUARD_S = 60.0


def python(code: str) -> Sequence[str]:
    return (sys.executable, "-I", "-c", code)


@pytest.mark.parametrize(
    ("code", "status"),
    [("", 0), ("raise SystemExit(7)", 7), ("import os; os.kill(os.getpid(), 9)", -9)],
)
def test_how_it_ended(code: str, status: int) -> None:
    process = Process(python(code), [])
    assert process.wait(GUARD_S) == status
    assert process.poll() == status
    process.send(signal.SIGTERM)
    process.close()
    process.close()
    assert process.poll() == status


def answer(code: str, blocked: Collection[signal.Signals] = ()) -> str:
    """What a child prints."""
    here, there = os.pipe()
    process = Process(python(code), [(there, 1)], blocked=blocked)
    os.close(there)
    with open(here) as pipe:
        said = pipe.read()
    assert process.wait(GUARD_S) == 0
    process.close()
    return said.strip()


STATUS = "print(*[line for line in open('/proc/self/status') if line.startswith(('SigBlk', 'SigIgn'))])"


def test_a_child_does_not_inherit_the_mask_nor_what_is_ignored() -> None:
    before = signal.getsignal(signal.SIGHUP)
    asked = {signal.SIGTERM, signal.SIGINT, signal.SIGHUP}
    masked = signal.pthread_sigmask(signal.SIG_BLOCK, asked)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        plain, blocking = answer(STATUS), answer(STATUS, blocked={signal.SIGTERM})
    finally:
        signal.signal(signal.SIGHUP, before)
        signal.pthread_sigmask(signal.SIG_SETMASK, masked)
    assert int(plain.split()[1], 16) == 0
    assert int(blocking.split()[1], 16) == 1 << signal.SIGTERM - 1
    assert not int(plain.split()[3], 16) & 1 << signal.SIGHUP - 1


def test_it_has_a_session_of_its_own() -> None:
    assert answer("import os; print(os.getsid(0) == os.getpid())") == "True"


def test_it_gets_the_descriptors_that_are_given_and_no_others() -> None:
    here, there = os.pipe()
    try:
        code = "import os; print(sorted(int(each) for each in os.listdir('/proc/self/fd')))"
        # 0 and 2 are those of this process; the listing itself needs one more, and finds 3 free.
        os.set_inheritable(here, True)
        assert answer(code) == "[0, 1, 2, 3]"
        process = Process(python("import os; os.write(9, b'x')"), [(there, 9)])
        assert process.wait(GUARD_S) == 0
        process.close()
        assert os.read(here, 1) == b"x"
    finally:
        os.close(here)
        os.close(there)


def test_closing_kills_and_leaves_nothing() -> None:
    before = len(list(Path("/proc/self/fd").iterdir()))
    process = Process(python("import time; time.sleep(1000)"), [])
    assert process.wait(0) is None
    process.close()
    assert process.poll() == -signal.SIGKILL
    assert not Path(f"/proc/{process.pid}").exists()
    assert len(list(Path("/proc/self/fd").iterdir())) == before


def test_a_program_that_is_not_there_is_one_line() -> None:
    with pytest.raises(PlugmeterError, match="cannot start /nonexistent: No such file or directory"):
        Process(["/nonexistent"], [])


def test_a_child_that_somebody_else_waited_for_has_ended_all_the_same() -> None:
    process = Process(python(""), [])
    os.waitpid(process.pid, 0)
    assert process.poll() == 255
    process.close()


def test_plugmeter_runs_itself_as_it_is_run() -> None:
    assert own_command("runner", "x") == (sys.executable, "-m", "plugmeter", "runner", "x")
