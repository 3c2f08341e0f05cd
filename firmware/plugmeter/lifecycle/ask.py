"""Asks the running daemon, and looks at who holds the lock of its state directory."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Final

from plugmeter.errors import PlugmeterError
from plugmeter.lifecycle.address import Address, connect

_ANSWER_LIMIT: Final = 4 << 20


def ask(address: Address, path: str, timeout_s: float = 5.0) -> tuple[int, bytes]:
    """GET ``path``: status and body. Raises PlugmeterError for all that fails."""
    until_s = time.monotonic() + timeout_s
    answer = bytearray()
    try:
        with connect(address, timeout_s) as connection:
            connection.sendall(f"GET {path} HTTP/1.0\r\nAccept: */*\r\n\r\n".encode("ascii"))
            while True:
                connection.settimeout(max(0.001, until_s - time.monotonic()))
                more = connection.recv(65_536)
                if not more:
                    break
                answer += more
                if len(answer) > _ANSWER_LIMIT:
                    raise PlugmeterError(f"{address} sends more than any status is; is it Plugmeter's?")
    except (FileNotFoundError, ConnectionRefusedError):
        raise PlugmeterError(f"nobody serves at {address}") from None
    except PermissionError:
        raise PlugmeterError(f"may not connect to {address}: use sudo, or join the socket's group") from None
    except (TimeoutError, BlockingIOError):
        raise PlugmeterError(f"{address} does not answer within {timeout_s:g} s") from None
    except OSError as error:
        raise PlugmeterError(f"cannot ask {address}: {error.strerror or error}") from None
    head, _, body = bytes(answer).partition(b"\r\n\r\n")
    words = head.split(b"\r\n", 1)[0].split(b" ", 2)
    if len(words) < 2 or not words[0].startswith(b"HTTP/1.") or not words[1].isdigit():
        raise PlugmeterError(f"what serves at {address} speaks no HTTP; is it Plugmeter's?")
    return int(words[1]), body


def lock_holder(lock: Path, locks: Path = Path("/proc/locks")) -> int | None:
    """The pid that holds an flock(2) on the file ``lock``, told without touching it (proc_locks(5)); or None.

    0 where the kernel does not name it (another PID namespace). Nobody also where it cannot be told.
    """
    try:
        found = lock.stat()
        lines = locks.read_text().splitlines()
    except (OSError, ValueError):
        return None
    place = f"{os.major(found.st_dev):02x}:{os.minor(found.st_dev):02x}:{found.st_ino}"
    for line in lines:  # 1: FLOCK  ADVISORY  WRITE 4711 fe:01:131074 0 EOF
        words = line.split()
        if len(words) >= 6 and words[1] == "FLOCK" and words[5] == place:
            return int(words[4]) if words[4].isdigit() else 0
    return None
