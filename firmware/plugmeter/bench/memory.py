"""What memory the daemon takes while a backlog waits in its outbox, and while it goes."""

from __future__ import annotations

import re
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from plugmeter.bench.broker import Broker, free_port
from plugmeter.bench.daemon import DaemonFolder
from plugmeter.bench.drafts import pending
from plugmeter.bench.supervised import Supervised
from plugmeter.errors import PlugmeterError

_LOOK_S = 0.2
_KIB = re.compile(r"^(VmHWM|VmRSS|RssAnon):\s+(\d+) kB$", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Memory:
    """Of the daemon's process, from its start on (proc_pid_status(5))."""

    name: str
    seconds: float
    pending_before: int
    pending_after: int
    peak_mib: float
    """VmHWM: also what it needed to start."""
    last_mib: float
    """VmRSS."""
    anonymous_mib: float
    """RssAnon: without what is shared with files."""

    def as_json(self) -> dict[str, Any]:
        """All figures."""
        return asdict(self)


def without_broker(folder: DaemonFolder, seconds: float) -> Memory:
    """With nobody who listens at the broker's port."""
    return _watch(folder, free_port(), seconds, "no broker")


def while_draining(folder: DaemonFolder, broker: Broker, seconds: float, name: str) -> Memory:
    """With a broker, and somebody there who acknowledges. Raises PlugmeterError where nothing went."""
    found = _watch(folder, broker.port, seconds, name)
    if found.pending_after >= found.pending_before:
        raise PlugmeterError(f"of {found.pending_before:,} records none was acknowledged in {seconds:g} s")
    return found


def _watch(folder: DaemonFolder, port: int, seconds: float, name: str) -> Memory:
    before = pending(folder.state)
    with Supervised("the daemon", folder.configure(port, drain_s=0.1, stop_cap_s=1)) as daemon:
        daemon.wait_until_ready()
        end_s = time.monotonic() + seconds
        while (left_s := end_s - time.monotonic()) > 0:
            daemon.look()
            time.sleep(min(_LOOK_S, left_s))
        text = Path(f"/proc/{daemon.pid}/status").read_text()
        ended = daemon.stop()
        if ended.status != 0:
            raise PlugmeterError(f"the daemon ended with {ended.status}{daemon.last_words()}")
    mib = {key: int(kib) / 1024 for key, kib in _KIB.findall(text)}
    return Memory(name, seconds, before, pending(folder.state), mib["VmHWM"], mib["VmRSS"], mib["RssAnon"])
