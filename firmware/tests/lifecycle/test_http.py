"""The server on real sockets: right, slow, rude and too many clients; and how it ends."""

from __future__ import annotations

import os
import socket
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from http.client import HTTPConnection
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from plugmeter.errors import PlugmeterError, UsageError
from plugmeter.lifecycle.address import Address, connect, parse_address
from plugmeter.lifecycle.ask import ask, lock_holder
from plugmeter.lifecycle.exchange import HEAD_LIMIT_BYTES, Exchange, Request, Response
from plugmeter.lifecycle.http import HANDLERS, MetricsServer

GIVE_UP_S = 60.0
LOOPBACK = Address(host="127.0.0.1")


class Site:
    """Pages, of which /gate is answered once the gate is opened."""

    def __init__(self) -> None:
        self.gate = threading.Event()
        self.entered = threading.Semaphore(0)

    def __call__(self, request: Request) -> Response | None:
        if request.path == "/gate":
            self.entered.release()
            assert self.gate.wait(GIVE_UP_S)
        if request.path == "/defect":
            raise ZeroDivisionError("ours")
        if request.path == "/large":
            return Response(b"x" * 20_000_000)
        return Response(b"hello\n") if request.path in ("/", "/gate") else None


@pytest.fixture
def site() -> Iterator[Site]:
    made = Site()
    yield made
    made.gate.set()


@pytest.fixture(params=["unix", "tcp"])
def address(request: pytest.FixtureRequest, tmp_path: Path) -> Address:
    return LOOPBACK if request.param == "tcp" else Address(path=str(tmp_path / "metrics.sock"))


@pytest.fixture
def started() -> Iterator[Callable[..., MetricsServer]]:
    with ExitStack() as stack:

        def start(address: Address, site: Site, request_s: float = 30.0) -> MetricsServer:
            server = MetricsServer(address, site, request_s=request_s)
            stack.callback(server.close, GIVE_UP_S)
            stack.callback(site.gate.set)
            server.start()
            return server

        yield start


Start = Callable[..., MetricsServer]


def send(address: Address, raw: bytes) -> bytes:
    """What comes back for some bytes, to the end."""
    with connect(address, GIVE_UP_S) as connection:
        connection.sendall(raw)
        return rest(connection)


def rest(connection: socket.socket) -> bytes:
    connection.settimeout(GIVE_UP_S)
    answer = bytearray()
    while more := connection.recv(65536):
        answer += more
    return bytes(answer)


def until(holds: Callable[[], bool]) -> None:
    give_up = time.monotonic() + GIVE_UP_S
    while not holds():
        assert time.monotonic() < give_up
        time.sleep(0.005)


def test_get_and_head(address: Address, site: Site, started: Start) -> None:
    server = started(address, site)
    head, _, body = send(server.address, b"GET /?a=b HTTP/1.1\r\nHost: localhost:1\r\n\r\n").partition(
        b"\r\n\r\n"
    )
    assert head.startswith(b"HTTP/1.0 200 OK\r\n")
    assert b"Content-Length: 6" in head
    assert b"Cache-Control: no-store" in head
    assert body == b"hello\n"
    head, _, body = send(server.address, b"HEAD / HTTP/1.0\n\n").partition(b"\r\n\r\n")
    assert (head.split(b"\r\n")[0], body) == (b"HTTP/1.0 200 OK", b"")
    assert ask(server.address, "/nothing") == (404, b"there is no such page\n")
    until(lambda: server.counters["answered"] == 3)
    assert server.progress.work >= 3


def test_an_ordinary_client_understands_it(site: Site, started: Start) -> None:
    server = started(LOOPBACK, site)
    client = HTTPConnection(server.address.host, server.address.port, timeout=GIVE_UP_S)
    for _ in range(2):  # a new connection each time
        client.request("GET", "/")
        assert client.getresponse().read() == b"hello\n"


@pytest.mark.parametrize(
    ("raw", "status"),
    [
        (b"POST / HTTP/1.1\r\nContent-Length: 3\r\n\r\nabc", 405),
        (b"DELETE / HTTP/1.0\r\n\r\n", 405),
        (b"GET /\r\n\r\n", 400),
        (b"GET / HTTP/9.9\r\n\r\n", 505),
        (b"GET / HTTP/1.x\r\n\r\n", 400),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n", 400),  # TLS
        (b"GET / HTTP/1.0\r\n" + b"X: y\r\n" * 101 + b"\r\n", 431),
        (b"GET / HTTP/1.0\r\nX: " + b"y" * HEAD_LIMIT_BYTES + b"\r\n\r\n", 431),
        (b"A" * (HEAD_LIMIT_BYTES + 1), 431),
        (b"GET / HTTP/1.1\r\nHost: attacker.example\r\n\r\n", 421),
        (b"GET / HTTP/1.1\r\nHost: 127.0.0.1.attacker.example:9\r\n\r\n", 421),
    ],
)
def test_what_is_no_request_for_us_is_refused(site: Site, started: Start, raw: bytes, status: int) -> None:
    server = started(LOOPBACK, site)
    assert send(server.address, raw).startswith(b"HTTP/1.0 %d " % status)
    until(lambda: server.counters["malformed"] == 1)
    assert ask(server.address, "/") == (200, b"hello\n")


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60)
@given(raw=st.binary(max_size=200) | st.text(max_size=60).map(lambda text: f"GET {text}\r\n\r\n".encode()))
def test_garbage_is_answered_or_dropped_and_the_server_lives(site: Site, raw: bytes) -> None:
    if raw:
        answer = Exchange(raw, site, local=True).wfile.getvalue()
        assert answer == b"" or answer.startswith(b"HTTP/1.0 ")


def test_garbage_on_the_wire(address: Address, site: Site, started: Start) -> None:
    server = started(address, site)
    garbage = [
        b"",
        b"\0",
        b"\r\n\r\n",
        b"GET",
        os.urandom(3000),
        b"\n" * 9000,
        b"GET / HTTP/1.0\r\n\xff: \xfe\r\n\r\n",
    ]
    for raw in garbage:
        with connect(server.address, GIVE_UP_S) as connection:
            connection.sendall(raw)
            connection.shutdown(socket.SHUT_WR)
            rest(connection)
    until(lambda: sum(server.counters.values()) == len(garbage))
    assert server.counters["defect"] == server.counters["slow"] == 0
    assert ask(server.address, "/") == (200, b"hello\n")


def test_many_at_once_are_all_answered(address: Address, site: Site, started: Start) -> None:
    server = started(address, site)
    answers: list[tuple[int, bytes]] = []
    clients = [
        threading.Thread(target=lambda: answers.append(ask(server.address, "/", GIVE_UP_S)))
        for _ in range(12)
    ]
    for client in clients:
        client.start()
    for client in clients:
        client.join()
    assert answers == [(200, b"hello\n")] * 12


def test_slow_clients_are_cut_off(address: Address, site: Site, started: Start) -> None:
    """One says nothing, one dribbles, one does not take its answer."""
    server = started(address, site, request_s=0.3)
    with ExitStack() as stack:
        silent, dribbling, deaf = (stack.enter_context(connect(server.address, GIVE_UP_S)) for _ in range(3))
        deaf.sendall(b"GET /large HTTP/1.0\r\n\r\n")
        stop = threading.Event()

        def dribble() -> None:
            try:
                while not stop.wait(0.01):
                    dribbling.sendall(b"x")
            except OSError:
                return

        thread = threading.Thread(target=dribble)
        thread.start()
        assert rest(silent).startswith(b"HTTP/1.0 408 ")
        until(lambda: server.counters["slow"] == 3)
        stop.set()
        thread.join()
    assert ask(server.address, "/") == (200, b"hello\n")


def test_when_all_handlers_are_busy_one_waits_a_little_and_then_is_told(
    address: Address, site: Site, started: Start
) -> None:
    server = started(address, site)
    with ExitStack() as stack:
        busy = [stack.enter_context(connect(server.address, GIVE_UP_S)) for _ in range(HANDLERS)]
        for connection in busy:
            connection.sendall(b"GET /gate HTTP/1.0\r\n\r\n")
        for _ in busy:
            assert site.entered.acquire(timeout=GIVE_UP_S)
        before = server.progress.wakeups
        assert ask(server.address, "/", GIVE_UP_S)[0] == 503
        assert server.counters["refused"] == 1
        until(lambda: server.progress.wakeups > before + 1)  # it moves all the while
        waiting = stack.enter_context(connect(server.address, GIVE_UP_S))
        waiting.sendall(b"GET / HTTP/1.0\r\n\r\n")
        site.gate.set()
        assert all(rest(each).endswith(b"hello\n") for each in busy)
        rest(waiting)
    assert ask(server.address, "/") == (200, b"hello\n")


def test_closing_ends_the_listener_first_and_then_finishes_what_is_under_way(
    address: Address, site: Site, started: Start
) -> None:
    server = started(address, site)
    with connect(server.address, GIVE_UP_S) as under_way:
        under_way.sendall(b"GET /gate HTTP/1.0\r\n\r\n")
        assert site.entered.acquire(timeout=GIVE_UP_S)
        closed: list[bool] = []
        closing = threading.Thread(target=lambda: closed.append(server.close(GIVE_UP_S)))
        closing.start()

        def refused() -> bool:
            try:
                connect(server.address, GIVE_UP_S).close()
            except (ConnectionRefusedError, FileNotFoundError):
                return True
            except ConnectionResetError:  # it was in the backlog when the listener closed
                return False
            return False

        until(refused)
        assert closed == []
        site.gate.set()
        assert rest(under_way).endswith(b"hello\n")
        closing.join()
    assert closed == [True]
    assert server.close() is True, "and once more is harmless"
    if address.path:
        assert not Path(address.path).exists()


def test_closing_does_not_wait_for_who_asks_nothing_or_for_a_page_that_hangs(
    address: Address, site: Site, started: Start
) -> None:
    server = started(address, site)
    with connect(server.address, GIVE_UP_S) as silent, connect(server.address, GIVE_UP_S) as hung:
        hung.sendall(b"GET /gate HTTP/1.0\r\n\r\n")
        assert site.entered.acquire(timeout=GIVE_UP_S)
        assert server.close(1.0) is False
        assert rest(silent) == b"", "cut off, long before its 30 s"
        site.gate.set()
        assert rest(hung).endswith(b"hello\n")


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_defect_of_a_page_costs_that_request_only(site: Site, started: Start) -> None:
    server = started(LOOPBACK, site)
    for _ in range(HANDLERS + 1):
        assert ask(server.address, "/defect")[0] == 500
    until(lambda: server.counters["defect"] == HANDLERS + 1)
    assert ask(server.address, "/") == (200, b"hello\n")


def test_the_socket_file_is_for_owner_and_group_only(tmp_path: Path, site: Site, started: Start) -> None:
    place = tmp_path / "metrics.sock"
    for mask in (0o000, 0o022, 0o077):
        before = os.umask(mask)
        try:
            server = started(Address(path=str(place)), site)
        finally:
            os.umask(before)
        assert stat.S_IMODE(place.stat().st_mode) == 0o660
        server.close()


def test_a_second_server_is_refused_in_one_line_that_names_the_first(
    address: Address, site: Site, started: Start
) -> None:
    first = started(address, site)
    with pytest.raises(PlugmeterError) as refused:
        MetricsServer(first.address, site)
    assert "\n" not in str(refused.value)
    assert str(first.address) in str(refused.value)
    assert "another program" in str(refused.value)
    if address.path:
        assert f"(pid {os.getpid()})" in str(refused.value)
    assert ask(first.address, "/") == (200, b"hello\n")


def test_what_a_killed_daemon_left_is_replaced(tmp_path: Path, site: Site, started: Start) -> None:
    place = tmp_path / "metrics.sock"
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(place))
        dead.listen()
    assert place.exists()
    server = started(Address(path=str(place)), site)
    assert ask(server.address, "/") == (200, b"hello\n")


def test_a_successors_socket_is_left_alone(tmp_path: Path, site: Site, started: Start) -> None:
    place = Address(path=str(tmp_path / "metrics.sock"))
    first = started(place, site)
    Path(place.path).unlink()
    second = started(place, site)
    first.close()
    assert ask(second.address, "/") == (200, b"hello\n")


def test_of_many_that_start_at_once_one_wins(tmp_path: Path) -> None:
    code = """
import sys
from plugmeter.errors import PlugmeterError
from plugmeter.lifecycle.address import listen, parse_address
sys.stdin.readline()
try:
    listener = listen(parse_address(sys.argv[1]))
    print("won", flush=True)
except PlugmeterError as error:
    print("lost" if "another program" in str(error) else error, flush=True)
sys.stdin.read()
"""
    place = tmp_path / "metrics.sock"
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(place))
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    starters = [
        subprocess.Popen(
            [sys.executable, "-c", code, f"unix:{place}"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
        )
        for _ in range(4)
    ]
    said = []
    for starter in starters:
        assert starter.stdin is not None
        starter.stdin.write("\n")
        starter.stdin.flush()
    for starter in starters:
        assert starter.stdout is not None
        said.append(starter.stdout.readline().strip())
    for starter in starters:
        starter.communicate()
    assert sorted(said) == ["lost", "lost", "lost", "won"]


@pytest.mark.parametrize(
    ("prepare", "words"),
    [
        (lambda place: place.write_text("precious"), "a file that is no socket is there"),
        (lambda place: place.mkdir(), "a file that is no socket is there"),
    ],
)
def test_nothing_else_is_ever_replaced(
    tmp_path: Path, site: Site, prepare: Callable[[Path], object], words: str
) -> None:
    place = tmp_path / "metrics.sock"
    prepare(place)
    with pytest.raises(PlugmeterError, match=words):
        MetricsServer(Address(path=str(place)), site)
    assert place.exists()


def test_a_folder_that_is_not_there_is_named(tmp_path: Path, site: Site) -> None:
    with pytest.raises(PlugmeterError, match=f"there is no folder {tmp_path}/run; make it"):
        MetricsServer(Address(path=str(tmp_path / "run" / "metrics.sock")), site)


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("unix:/run/plugmeter/metrics.sock", Address(path="/run/plugmeter/metrics.sock")),
        ("127.0.0.1:9273", Address(host="127.0.0.1", port=9273)),
        ("[::1]:0", Address(host="::1", port=0)),
    ],
)
def test_addresses(text: str, meant: Address) -> None:
    assert parse_address(text) == meant
    assert str(meant) == text


@pytest.mark.parametrize(
    "text",
    [
        "",
        "unix:",
        "unix:relative",
        "0.0.0.0:80",
        "127.0.0.1:65536",
        "127.0.0.1:",
        "::1:80",
        "unix:/" + "x" * 107,
    ],
)
def test_what_is_no_address(text: str) -> None:
    with pytest.raises(UsageError):
        parse_address(text)


def test_who_asks_in_vain_is_told_why(tmp_path: Path) -> None:
    with pytest.raises(PlugmeterError, match="nobody serves at unix:"):
        ask(Address(path=str(tmp_path / "none")), "/")
    with socket.create_server(("127.0.0.1", 0)) as mute:
        address = Address(host="127.0.0.1", port=mute.getsockname()[1])
        with pytest.raises(PlugmeterError, match="does not answer within"):
            ask(address, "/", 0.1)

        def serve(answer: bytes) -> None:
            connection = mute.accept()[0]
            with connection:
                connection.recv(100)
                connection.sendall(answer)

        mute.accept()[0].close()
        thread = threading.Thread(target=serve, args=(b"SSH-2.0-OpenSSH\r\n",))
        thread.start()
        with pytest.raises(PlugmeterError, match="speaks no HTTP"):
            ask(address, "/")
        thread.join()


def test_who_holds_a_lock_is_told_without_touching_it(tmp_path: Path) -> None:
    lock = tmp_path / "lock"
    assert lock_holder(lock) is None
    lock.touch()
    assert lock_holder(lock) is None
    code = "import fcntl,sys; f=open(sys.argv[1]); fcntl.flock(f, 2); print(flush=True); sys.stdin.read()"
    with subprocess.Popen(
        [sys.executable, "-c", code, str(lock)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as holder:
        assert holder.stdout is not None
        holder.stdout.readline()
        assert lock_holder(lock) == holder.pid
        holder.communicate()
    assert lock_holder(lock) is None
