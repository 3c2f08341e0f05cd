"""The packet limit: how large a message may be for the broker, as it says itself or as it was found out.

A broker that does not tell its Maximum Packet Size in CONNACK (MQTT 5, 3.2.2.3.6) ends the connection with
0x95 for a packet beyond it. Which one it was is not said; but the largest of those without a PUBACK is larger
than the limit in any case, as the one that the broker means is among them.
"""

from __future__ import annotations

from typing import Final

OVERHEAD_BYTES: Final = 32
"""Of a PUBLISH beside topic and payload: at most 5 of header, 2 + 2 of lengths, 1 of properties' length and
5 for a Message Expiry Interval."""
_LEAST_RECORDS_BYTES: Final = 1_024


def packet_bytes(topic: str, payload: bytes) -> int:
    """How large a PUBLISH of it is at the most."""
    return OVERHEAD_BYTES + len(topic.encode()) + len(payload)


class PacketLimit:
    """Of one broker, over its connections. Pure. All in bytes of a whole packet."""

    def __init__(self) -> None:
        self._told: int | None = None
        self._documents: int | None = None
        self._records: int | None = None

    def connected(self, most_bytes: int) -> None:
        """What CONNACK tells. Another limit than before is another configuration: what was found out under
        the old one is forgotten."""
        if most_bytes != self._told:
            self._told = most_bytes
            self._documents = self._records = None

    def exceeded(self, size_bytes: int, *, divisible: bool) -> None:
        """0x95, and the largest packet without a PUBACK had ``size_bytes``: ``divisible`` if it was one of
        records, which can be sent in smaller ones. A document cannot, and says little of what records may
        take."""
        self._documents = _least(self._documents, size_bytes - 1)
        records = max(_LEAST_RECORDS_BYTES, size_bytes // 2) if divisible else size_bytes - 1
        self._records = _least(self._records, records)

    @property
    def documents_bytes(self) -> int:
        """The most of a packet with a document."""
        return _least(self._documents, self._told or 0)

    @property
    def records_bytes(self) -> int:
        """The most of a packet with records."""
        return _least(self._records, self._told or 0)


def _least(known: int | None, other: int) -> int:
    return other if known is None else min(known, other)
