"""``plugmeter status`` against a real server, and without one."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from plugmeter import cli
from plugmeter.commands import status
from plugmeter.errors import UsageError
from plugmeter.lifecycle.address import Address
from plugmeter.lifecycle.exchange import Request, Response
from plugmeter.lifecycle.figures import Figures, OutboxFigures
from plugmeter.lifecycle.health import HealthSnapshot, write_health
from plugmeter.lifecycle.http import MetricsServer
from plugmeter.lifecycle.metrics import Exposition
from plugmeter.lifecycle.pages import StatusPages

FIRMWARE = Path(__file__).parents[2]
READY = Figures(version="1.2.3", device="pi-7", pid=7, stage="running", outbox=OutboxFigures(stream="s"))


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Callable[[Figures], str]]:
    servers: list[MetricsServer] = []

    def start(figures: Figures) -> str:
        pages = StatusPages(lambda: figures, Exposition(lambda: figures))
        server = MetricsServer(Address(path=str(tmp_path / "s")), pages)
        servers.append(server)
        server.start()
        return str(server.address)

    yield start
    for server in servers:
        server.close()


def run(*arguments: str) -> int:
    parser = cli.Parser(prog="plugmeter status")
    status.add_arguments(parser)
    return status.run(parser.parse_args(list(arguments)))


def test_a_ready_daemon(
    serve: Callable[[Figures], str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    address = serve(READY)
    assert run("--socket", address, "--state", str(tmp_path)) == 0
    assert capsys.readouterr().out.startswith("plugmeter 1.2.3 on pi-7 (pid 7) is ready\n")
    assert run("--socket", address, "--state", str(tmp_path), "--json") == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["running"], told["ready"], told["trouble"], told["last_health"]) == (True, True, None, None)
    assert told["status"]["stage"] == "running"


def test_a_daemon_that_is_not_ready(
    serve: Callable[[Figures], str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("--socket", serve(Figures(stage="draining")), "--state", str(tmp_path)) == 1
    assert "not ready  it is draining\n" in capsys.readouterr().out


def test_where_it_is_comes_from_the_configuration(
    serve: Callable[[Figures], str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "plugmeter.toml"
    file.write_text(f'[daemon]\nmetrics = "{serve(READY)}"\nstate_directory = "{tmp_path}"\n')
    assert run("--config", str(file)) == 0
    file.write_text(f'[daemon]\nmetrics = ""\nstate_directory = "{tmp_path}"\n')
    assert run("--config", str(file)) == 1
    assert "does not run: it serves no status (daemon.metrics is empty)" in capsys.readouterr().out
    file.write_text("[daemon]\nmetrics = 7\n")
    with pytest.raises(UsageError):
        run("--config", str(file))


def test_without_a_daemon_the_last_snapshot_is_shown(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_health(
        tmp_path, HealthSnapshot(time_ns=time.time_ns(), stage="stopped", version="1.2.3", backlog=3)
    )
    nowhere = f"unix:{tmp_path}/none"
    assert run("--socket", nowhere, "--state", str(tmp_path)) == 1
    out = capsys.readouterr().out
    assert out.startswith(f"plugmeter does not run: nobody serves at {nowhere}\nlast seen  ")
    assert "\noutbox     3 pending\n" in out
    assert run("--socket", nowhere, "--state", str(tmp_path), "--json") == 1
    told = json.loads(capsys.readouterr().out)
    assert (told["running"], told["ready"], told["status"]) == (False, False, None)
    assert told["last_health"]["backlog"] == 3


def test_a_daemon_that_only_holds_its_directory_runs(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "lock").touch()
    code = "import fcntl,sys; f=open(sys.argv[1]); fcntl.flock(f, 2); print(flush=True); sys.stdin.read()"
    with subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path / "lock")], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as holder:
        assert holder.stdout is not None
        holder.stdout.readline()
        assert run("--socket", f"unix:{tmp_path}/none", "--state", str(tmp_path)) == 1
        holder.communicate()
    assert f"plugmeter runs (pid {holder.pid}), but cannot be asked" in capsys.readouterr().out


@pytest.mark.parametrize(
    "body", [b"", b"[]", b'{"ready": 1}', b'{"ready": [], "pid": "x"}', b"\xff", b"[" * 9999]
)
def test_what_is_no_plugmeter_is_not_taken_for_one(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], body: bytes
) -> None:
    def pages(request: Request) -> Response:
        return Response(body)

    server = MetricsServer(Address(host="127.0.0.1"), pages)
    server.start()
    try:
        assert run("--socket", str(server.address), "--state", str(tmp_path)) == 1
    finally:
        server.close()
    assert "is no Plugmeter of this version" in capsys.readouterr().out


@pytest.mark.parametrize(
    "arguments", [["--socket", "0.0.0.0:80"], ["--socket", "x"], ["--what"], ["--config", "/none"]]
)
def test_bad_usage(arguments: list[str]) -> None:
    with pytest.raises(UsageError) as wrong:
        run(*arguments)
    assert "\n" not in str(wrong.value)


def test_watching_goes_on_until_ctrl_c(serve: Callable[[Figures], str], tmp_path: Path) -> None:
    code = """
import sys
from plugmeter import cli
from plugmeter.commands import status
parser = cli.Parser()
status.add_arguments(parser)
sys.exit(status.run(parser.parse_args(sys.argv[1:])))
"""
    arguments = ("--watch", "--json", "--socket", serve(READY), "--state", str(tmp_path))
    with subprocess.Popen(
        [sys.executable, "-c", code, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(FIRMWARE)},
    ) as watching:
        assert watching.stdout is not None
        lines = [json.loads(watching.stdout.readline()) for _ in range(2)]
        watching.send_signal(signal.SIGINT)
        _, said = watching.communicate()
    assert [line["ready"] for line in lines] == [True, True]
    assert (watching.returncode, said) == (0, "")
