import errno
import select
import socket

from plugmeter.witnesses.socket_queue import SocketQueue
from tests.namespace import KERNEL_GROUP, in_namespace, in_user_namespace, inject_uevent, uevent_socket


def _drain(sock: socket.socket) -> int:
    """How many messages there were; ENOBUFS on the way is passed over."""
    count = 0
    while True:
        try:
            sock.recv(65536)
        except BlockingIOError:
            return count
        except OSError as error:
            assert error.errno == errno.ENOBUFS
        else:
            count += 1


def test_drops_and_messages_add_up_to_what_was_sent() -> None:
    def body() -> tuple[int, int, int, int, int]:
        sender = uevent_socket()
        with uevent_socket(KERNEL_GROUP) as listener:
            queue = SocketQueue(listener)
            queue.grow(4096)
            for _ in range(500):
                inject_uevent(sender, "add", "/devices/x", SUBSYSTEM="usb")
            error, again = queue.clear_error(), queue.clear_error()
            drops = queue.new_drops()
            return error, again, drops, queue.new_drops(), _drain(listener)

    error, again, drops, more_drops, read = in_namespace(body)
    assert (error, again) == (errno.ENOBUFS, 0)
    assert drops > 0
    assert drops + read == 500
    assert more_drops == 0


def test_drops_are_found_when_somebody_else_took_the_error() -> None:
    def body() -> tuple[int, int]:
        sender = uevent_socket()
        with uevent_socket(KERNEL_GROUP) as listener:
            queue = SocketQueue(listener)
            queue.grow(4096)
            for _ in range(100):
                inject_uevent(sender, "add", "/devices/x", SUBSYSTEM="usb")
            read = _drain(listener)  # recv told the ENOBUFS
            assert not select.select([], [], [listener], 0)[2]
            return read, queue.new_drops()

    read, drops = in_namespace(body)
    assert read + drops == 100
    assert drops > 0


def test_an_ordinary_user_gets_at_most_twice_rmem_max() -> None:
    def body() -> tuple[int, int]:
        with open("/proc/sys/net/core/rmem_max") as file:
            limit = int(file.read())
        with uevent_socket(KERNEL_GROUP) as listener:
            queue = SocketQueue(listener)
            return queue.grow(limit * 4), limit

    size, limit = in_user_namespace(body)
    assert size == 2 * limit


def test_absurd_sizes_are_bounded_and_not_an_error() -> None:
    with uevent_socket() as listener:
        queue = SocketQueue(listener)
        assert queue.grow(0) > 0
        assert queue.grow(2**40) == queue.size_bytes > 0
