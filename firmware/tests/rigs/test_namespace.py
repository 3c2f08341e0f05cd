from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.rigs.conftest import Runner

# In a user namespace of its own, set one of the limits that hold below it and end its own rights.
# 0 stays the uid, so that "root without CAP_SYS_ADMIN", as in a container, is tried as well.
LIMITED = """
import os, sys
from plugmeter.errors import RigError
from plugmeter.rigs import namespace
limit, drop = sys.argv[1], sys.argv[2]
uid, gid = os.geteuid(), os.getegid()
assert namespace._unshare(namespace._CLONE_NEWUSER) == 0
namespace._map_to_root(uid, gid)
open(f"/proc/sys/user/{limit}", "w").write("0")
again = "from plugmeter.errors import RigError\\n" \\
    "from plugmeter.rigs.namespace import enter\\n" \\
    "try: print('entered', enter())\\n" \\
    "except RigError as error: print('refused:', error)\\n"
command = [sys.executable, "-c", again]
if drop:
    command = [drop, "--bounding-set=-all", "--inh-caps=-all", *command]
os.execv(command[0], command)
"""


def setpriv() -> str:
    found = shutil.which("setpriv")
    if found is None:
        pytest.skip("needs setpriv, to give capabilities up")
    return found


@pytest.mark.privileged
def test_root_needs_no_user_namespace(myself: Runner) -> None:
    if os.geteuid() != 0:
        pytest.skip("needs root")
    ran = myself.code("from plugmeter.rigs.namespace import enter; print(enter())")
    assert ran.stdout == "Namespace(user=False)\n"


def test_an_ordinary_user_gets_a_user_namespace_and_keeps_their_files(ordinary: Runner) -> None:
    with tempfile.TemporaryDirectory(prefix="plugmeter-test-") as directory:
        Path(directory).chmod(0o777)
        report = Path(directory) / "report.json"
        ran = ordinary.code(
            "import os, sys\n"
            "from plugmeter.rigs.namespace import enter\n"
            "print(enter(), os.getuid())\n"
            "open(sys.argv[1], 'w').close()\n",
            str(report),
        )
        assert ran.stdout == "Namespace(user=True) 0\n", ran.stderr
        assert report.stat().st_uid == ordinary.uid


def test_inside_uevents_of_outside_are_not_heard_and_the_other_way_round(myself: Runner) -> None:
    ran = myself.code(
        "import socket\n"
        "outside = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 15)\n"
        "outside.bind((0, 1))\n"
        "from plugmeter.rigs.namespace import enter\n"
        "enter()\n"
        "seen = []\n"
        "try:\n"
        "    while True: seen.append(outside.recv(8192, socket.MSG_DONTWAIT))\n"
        "except BlockingIOError: pass\n"
        "print(any(b'plugmeter' in each for each in seen))\n"
    )
    assert ran.stdout == "False\n", ran.stderr


def test_a_process_with_threads_is_refused(myself: Runner) -> None:
    ran = myself.code(
        "import threading\n"
        "from plugmeter.errors import RigError\n"
        "from plugmeter.rigs.namespace import enter\n"
        "over = threading.Event()\n"
        "threading.Thread(target=over.wait).start()\n"
        "try: enter()\n"
        "except RigError as error: print(error)\n"
        "over.set()\n"
    )
    assert ran.stdout == (
        "cannot enter a namespace: this process has 2 threads already, and must do it before it starts any\n"
    )


@pytest.mark.parametrize(
    ("limit", "drops_rights"),
    [("max_user_namespaces", True), ("max_net_namespaces", True), ("max_net_namespaces", False)],
)
def test_where_the_system_forbids_it_one_line_names_the_setting(
    ordinary: Runner, limit: str, drops_rights: bool
) -> None:
    ran = ordinary.code(LIMITED, limit, setpriv() if drops_rights else "")
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout == (
        "refused: cannot inject uevents: this system forbids the namespace for it "
        "(unshare: No space left on device); "
        f"user.{limit} is 0; run with sudo, or set it: sudo sysctl user.{limit}=96365\n"
    )


def test_a_namespace_without_capabilities_is_found_out(ordinary: Runner) -> None:
    """What Ubuntu's AppArmor does: the namespace is had, but nothing may be done in it."""
    source = (
        "import os, sys\n"
        "from plugmeter.rigs.namespace import enter\n"
        "enter()\n"
        "again = 'from plugmeter.errors import RigError\\n' \\\n"
        "    'from plugmeter.rigs.namespace import check_injection\\n' \\\n"
        "    'try: check_injection()\\n' \\\n"
        "    'except RigError as error: print(error)\\n'\n"
        "os.execv(sys.argv[1],\n"
        "    [sys.argv[1], '--bounding-set=-all', '--inh-caps=-all', sys.executable, '-c', again])\n"
    )
    ran = ordinary.code(source, setpriv())
    assert ran.stdout.startswith("the kernel does not let this process inject uevents"), ran.stderr
    assert ran.stdout.count("\n") == 1
