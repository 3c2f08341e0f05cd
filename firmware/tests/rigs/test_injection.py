from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from plugmeter.rigs.injection import LONGEST_PAYLOAD_BYTES
from plugmeter.rigs.stick import Attachment, Stick, plug_uevents, pull_uevents

if TYPE_CHECKING:
    from tests.rigs.conftest import Runner

# Injects what it is given on a socket of group 1 and prints what came out.
INJECT = """
import json, socket, sys
from plugmeter.errors import RigError
from plugmeter.rigs.injection import Injector
from plugmeter.rigs.namespace import enter
enter()
listener = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 15)
listener.bind((0, 1))
refusals, seen = [], []
with Injector() as injector:
    for payload in json.loads(sys.argv[1]):
        try:
            injector.inject(payload.encode("latin-1"))
        except RigError as error:
            refusals.append(str(error))
            continue
        while True:  # until it is ours: as root, the machine's own uevents are heard as well
            message, sender = listener.recvfrom(8192, socket.MSG_DONTWAIT)
            if message.startswith(payload.encode("latin-1")): break
        seen.append([message.decode("latin-1"), list(sender)])
    emitted = injector.emitted
injector.close()
print(json.dumps([seen, refusals, emitted]))
"""


def inject(runner: Runner, payloads: list[bytes]) -> tuple[list[tuple[str, list[int]]], list[str], int]:
    ran = runner.code(INJECT, json.dumps([payload.decode("latin-1") for payload in payloads]))
    assert ran.returncode == 0, ran.stderr
    seen, refusals, emitted = json.loads(ran.stdout)
    return seen, refusals, emitted


@pytest.mark.parametrize("who", ["myself", "ordinary"])
def test_a_uevent_comes_out_as_the_kernels_own_with_its_number(
    who: str, request: pytest.FixtureRequest
) -> None:
    attached = Attachment(Stick(1), "1-1", devnum=2)
    payloads = plug_uevents(attached) + pull_uevents(attached)
    seen, refusals, emitted = inject(request.getfixturevalue(who), payloads)
    assert refusals == []
    assert emitted == len(payloads)
    numbers = []
    for payload, (message, sender) in zip(payloads, seen, strict=True):
        assert sender == [0, 1]
        before, number = message.split("SEQNUM=")
        assert before.encode("latin-1") == payload
        numbers.append(int(number.rstrip("\0")))
    assert numbers == sorted(set(numbers))


def test_the_longest_payload_goes_through_and_a_longer_one_is_refused_and_not_counted(
    myself: Runner,
) -> None:
    def sized(size_bytes: int) -> bytes:
        head = b"add@/x\0ACTION=add\0PAD="
        return head + b"x" * (size_bytes - len(head) - 1) + b"\0"

    seen, refusals, emitted = inject(myself, [sized(LONGEST_PAYLOAD_BYTES), sized(2100), sized(100)])
    assert (len(seen), emitted) == (2, 2)
    (refusal,) = refusals
    assert refusal == "the kernel refuses a uevent of 2100 bytes: its buffer has room for 2004"


def test_bytes_that_are_no_proper_uevent_go_through_too(myself: Runner) -> None:
    odd = [b"x\0", b"add@/\xff\xfe\0A=\xff\0", b"no end", b"add@/x\0ACTION=add\0ACTION=add\0"]
    seen, refusals, emitted = inject(myself, odd)
    assert refusals == []
    assert emitted == len(odd)
    assert [message.split("SEQNUM=")[0].encode("latin-1") for message, _ in seen] == odd


def test_without_the_right_the_kernels_refusal_is_one_line(ordinary: Runner) -> None:
    ran = ordinary.code(
        "from plugmeter.errors import RigError\n"
        "from plugmeter.rigs.injection import Injector\n"
        "injector = Injector()\n"
        "try: injector.inject(b'add@/x\\0ACTION=add\\0')\n"
        "except RigError as error: print(error, injector.emitted)\n"
    )
    assert ran.stdout == (
        "the kernel does not let this process inject uevents: it needs CAP_SYS_ADMIN over its network "
        "namespace; run with sudo, or where user namespaces are allowed 0\n"
    )
