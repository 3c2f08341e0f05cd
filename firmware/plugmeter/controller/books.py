"""What the audit needs from the store: each stream's numbers, in ranges, from the records themselves."""

from __future__ import annotations

from plugmeter.controller import coverage
from plugmeter.controller.audit import Books, Told
from plugmeter.controller.standing import Refusal, Standing
from plugmeter.controller.store import Session, Store
from plugmeter.errors import UsageError
from plugmeter.telemetry import ranges, strictjson
from plugmeter.telemetry.ranges import Ranges

_LIMIT_BYTES = 1 << 20


def read_books(store: Store, device: str | None = None) -> tuple[list[Books], list[Standing]]:
    """All streams of one device or of all, in the order in which they began, and the devices; all of one
    moment.

    Reads the key of every record: some seconds for ten millions. Raises UsageError for a device that has
    never reported, StoreTrouble.
    """
    with store.reading() as session:
        devices = session.rows("SELECT id, name FROM device ORDER BY name")
        if device is not None:
            devices = [row for row in devices if row[1] == device]
            if not devices:
                raise UsageError(f"no device {device!r} has reported; see plugmeter controller devices")
        return (
            [books for device_id, name in devices for books in books_of(session, device_id, name)],
            [standing_of(session, device_id, name) for device_id, name in devices],
        )


def standing_of(session: Session, device: int, name: str) -> Standing:
    """What is to be said of one device beside its streams; its queries are bounded."""
    ((refused,),) = session.rows("SELECT refused FROM device WHERE id = ?", (device,))
    streams = session.rows("SELECT name, returns FROM stream WHERE device = ?", (device,))
    refusals = session.rows(
        "SELECT refusal.stream, coalesce(owner.name, ''), refusal.count FROM refusal"
        " LEFT JOIN stream ON stream.name = refusal.stream"
        " LEFT JOIN device AS owner ON owner.id = stream.device"
        " WHERE refusal.device = ? ORDER BY refusal.last_ms DESC, refusal.stream",
        (device,),
    )
    return Standing(
        device=name,
        streams=len(streams),
        refused=int(refused),
        refusals=tuple(Refusal(stream, owner, int(count)) for stream, owner, count in refusals),
        foreign=_foreign(session, device),
        returned=tuple((stream, int(returns)) for stream, returns in streams if returns),
    )


def _foreign(session: Session, device: int) -> tuple[str, str] | None:
    """The stream that the latest status names and its device, where that is another one."""
    for (body,) in session.rows("SELECT body FROM document WHERE device = ? AND kind = 'status'", (device,)):
        named = strictjson.decode(str(body).encode(), limit_bytes=_LIMIT_BYTES).get("stream")
        owners = session.rows(
            "SELECT stream.name, device.id, device.name FROM stream JOIN device ON device.id = stream.device"
            " WHERE stream.name = ?",
            (named,),
        )
        if owners and owners[0][1] != device:
            return str(owners[0][0]), str(owners[0][2])
    return None


def books_of(session: Session, device: int, name: str, *, quick: bool = False) -> list[Books]:
    """The streams of one device. ``quick`` believes our index (``coverage``) and reads no records."""
    streams = session.rows(
        "SELECT id, name, previous, reason, duplicates, conflicts FROM stream WHERE device = ?"
        " ORDER BY first_ms, id",
        (device,),
    )
    present = present_stream(session, device)
    followers = {previous: reason for _, _, previous, reason, *_ in streams if previous is not None}
    found = []
    for stream, stream_name, previous, _, duplicates, conflicts in streams:
        over: str | None = None
        if stream_name in followers:
            over = f"the next stream began because this one's database was {followers[stream_name] or 'gone'}"
        elif stream_name != present:
            over = "the device reports as another stream now"
        covered = coverage.of(session, stream, coverage.RECORD)
        deleted = coverage.of(session, stream, coverage.DELETED)
        found.append(
            Books(
                device=name,
                stream=stream_name,
                stored=covered if quick else ranges.merge(_stored(session, stream), deleted),
                covered=covered,
                buried=(
                    coverage.of(session, stream, coverage.TOMBSTONE) if quick else _buried(session, stream)
                ),
                told=_told(session, stream),
                duplicates=duplicates,
                conflicts=conflicts,
                over_because=over,
                previous=previous,
                deleted=deleted,
            )
        )
    return found


def present_stream(session: Session, device: int) -> str | None:
    """The stream that a device reports as now: of its status or its summary, whichever came last."""
    documents = session.rows(
        "SELECT kind, body FROM document WHERE device = ? AND kind IN ('status', 'summary')"
        " ORDER BY received_ms DESC, kind DESC",
        (device,),
    )
    for kind, body in documents:
        value = strictjson.decode(str(body).encode(), limit_bytes=_LIMIT_BYTES)
        named = value.get("stream") if kind == "status" else value.get("outbox", {}).get("stream")
        owned = session.rows("SELECT 1 FROM stream WHERE name = ? AND device = ?", (named, device))
        if owned:
            return str(named)
    newest = session.rows(
        "SELECT name FROM stream WHERE device = ? ORDER BY heard_ms DESC, id DESC LIMIT 1", (device,)
    )
    return str(newest[0][0]) if newest else None


def _stored(session: Session, stream: int) -> Ranges:
    rows = session.rows(
        "SELECT min(seq), max(seq) FROM (SELECT seq, seq - row_number() OVER (ORDER BY seq) AS island"
        " FROM record WHERE stream = ?) AS numbered GROUP BY island",
        (stream,),
    )
    return ranges.normalise((int(first), int(last)) for first, last in rows)


def _buried(session: Session, stream: int) -> Ranges:
    rows = session.rows("SELECT first, last FROM tombstone WHERE stream = ?", (stream,))
    return ranges.normalise((int(first), int(last)) for first, last in rows)


def _told(session: Session, stream: int) -> Told | None:
    rows = session.rows(
        "SELECT received_ms, produced, acknowledged, tombstoned, pending, oldest_pending, unannounced,"
        " contradictions, contradiction FROM account WHERE stream = ?",
        (stream,),
    )
    return Told(*rows[0]) if rows else None
