from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from plugmeter import __version__, cli

FIRMWARE = Path(__file__).parent.parent


def environment() -> dict[str, str]:
    """Ours, with this tree first, and output buffered as it is for a user."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    return kept | {"PYTHONPATH": str(FIRMWARE)}


def plugmeter(*arguments: str, stdout: int = subprocess.PIPE) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "plugmeter", *arguments],
        stdout=stdout,
        stderr=subprocess.PIPE,
        stdin=subprocess.DEVNULL,
        text=True,
        env=environment(),
        check=False,
    )


def python(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=environment(), check=False
    )


def test_help_lists_every_command_with_its_one_line() -> None:
    done = plugmeter("--help")
    assert (done.returncode, done.stderr) == (0, "")
    for group, names in cli.GROUPS:
        assert f"\n{group}:\n" in done.stdout
        for name in names:
            assert any(
                line.split()[:1] == [name] and len(line.split()) > 3 for line in done.stdout.splitlines()
            )
    assert "examples:" in done.stdout


@pytest.mark.parametrize("name", cli.COMMANDS)
def test_each_command_keeps_the_contract_and_its_help_teaches(name: str) -> None:
    module = cli.command_module(name)
    assert name == module.NAME
    assert module.HELP
    assert "\n" not in module.HELP
    assert "example" in module.EPILOG
    for arguments in ([name, "--help"], ["help", name]):
        done = plugmeter(*arguments)
        assert (done.returncode, done.stderr) == (0, "")
        assert module.EPILOG.strip() in done.stdout
        assert f"usage: plugmeter {name}" in done.stdout


def test_version() -> None:
    done = plugmeter("--version")
    assert (done.returncode, done.stdout, done.stderr) == (0, f"plugmeter {__version__}\n", "")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "which command?"),
        (["chekc"], "unknown command chekc; did you mean check?"),
        (["xyzzy"], "unknown command xyzzy; there are"),
        (["no\nsuch\ncommand"], "unknown command no\\nsuch\\ncommand;"),
        (["--verson"], "unrecognized arguments: --verson; see plugmeter --help"),
        (["check", "--jsn", "x"], "check: unrecognized arguments: --jsn; see plugmeter check --help"),
        (["check", "--js", "x"], "check: unrecognized arguments: --js; see plugmeter check --help"),
        (["check", "a", "b"], "check: unrecognized arguments: b; see plugmeter check --help"),
        (["help", "chekc"], "unknown command chekc; did you mean check?"),
        (["", "check"], "unknown command"),
    ],
)
def test_a_wrong_command_line_is_one_line_and_status_2(arguments: list[str], words: str) -> None:
    done = plugmeter(*arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert len(done.stderr.splitlines()) == 1
    assert done.stderr.startswith("plugmeter: ")
    assert words in done.stderr


@pytest.mark.parametrize(
    "arguments", [["--help"], ["--version"], ["check", "--example"], ["check", "/dev/null"]]
)
def test_a_full_disk_below_standard_output_is_one_line(arguments: list[str]) -> None:
    full = os.open("/dev/full", os.O_WRONLY)
    try:
        done = plugmeter(*arguments, stdout=full)
    finally:
        os.close(full)
    assert done.returncode == 1
    assert done.stderr == f"plugmeter: cannot write the output: {os.strerror(errno.ENOSPC)}\n"


def test_a_reader_that_has_gone_is_no_matter() -> None:
    read, write = os.pipe()
    os.close(read)
    try:
        done = plugmeter("check", "--example", stdout=write)
    finally:
        os.close(write)
    assert (done.returncode, done.stderr) == (141, "")


@pytest.mark.parametrize("closed", ["1", "2"])
def test_a_closed_output_is_no_matter(closed: str) -> None:
    done = subprocess.run(
        ["sh", "-c", f'exec "$0" -m plugmeter check /dev/null {closed}>&-', sys.executable],
        capture_output=True,
        text=True,
        env=environment(),
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_ctrl_c_is_one_line_and_status_130(tmp_path: Path) -> None:
    fifo = tmp_path / "config.toml"
    os.mkfifo(fifo)
    running = subprocess.Popen(
        [sys.executable, "-m", "plugmeter", "check", str(fifo)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment(),
    )
    writer = -1
    try:
        while writer < 0 and running.poll() is None:
            try:  # fails until the command has opened its end, from which on it waits for us
                writer = os.open(fifo, os.O_WRONLY | os.O_NONBLOCK)
            except OSError as error:
                assert error.errno == errno.ENXIO
                time.sleep(0.01)
        running.send_signal(signal.SIGINT)
        out, err = running.communicate()
    finally:
        running.kill()
        running.wait()
        if writer >= 0:
            os.close(writer)
    assert (running.returncode, out, err) == (130, "", "plugmeter: interrupted\n")


def test_start_up_imports_nothing_heavy() -> None:
    done = python(
        "import sys\n"
        "from plugmeter import cli\n"
        "cli.main(['check', '/dev/null'])\n"
        "heavy = {'matplotlib', 'numpy', 'scipy', 'jinja2', 'gpiozero', 'pyudev', 'hdrh', 'asyncio'}\n"
        "sys.exit(', '.join(heavy & set(sys.modules)) or 0)\n"
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "/dev/null: good\n", "")
