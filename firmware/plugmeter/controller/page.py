"""The page: Flask behind waitress, read only, everything escaped, nothing from elsewhere.

It shows what the store has; it changes nothing and commands nobody. It is bound to the loopback address by
default, and then answers only to names of this machine, so that no web site can have a browser read it
(DNS rebinding). With a token it asks for a password (HTTP Basic: any name, the token as password) or takes
``Authorization: Bearer``. For other machines put a proxy with TLS before it.
"""

from __future__ import annotations

import hmac
import ipaddress
import threading
import time
from collections.abc import Callable
from typing import Any, Final

from plugmeter import __version__
from plugmeter.controller import charts, device_view, diary, fleet_view, queries, run_view, wording
from plugmeter.controller.extracts import HOUR_MS
from plugmeter.controller.over_time import DAY_HOURS, SPANS, Span
from plugmeter.controller.receiver import ReceiverStatus
from plugmeter.controller.store import Store, StoreTrouble
from plugmeter.errors import PlugmeterError, UsageError

try:
    import flask
    from waitress import wasyncore
    from waitress.server import create_server
    from werkzeug.exceptions import HTTPException
except ImportError as missing:
    raise PlugmeterError(
        f'the page needs {missing.name}: install Plugmeter with its extra "controller" '
        "(plugmeter[controller]), or serve without it (--no-page)"
    ) from missing

POLICY: Final = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_THREADS: Final = 4
_MOST: Final = 25
_END_S: Final = 3.0
_LOCAL_NAMES: Final = frozenset({"localhost", "127.0.0.1", "[::1]"})


class Page:
    """The server. ``start`` serves in threads of its own until ``stop``."""

    def __init__(
        self,
        store: Store,
        receiver: Callable[[], ReceiverStatus],
        listen: tuple[str, int],
        token: str | None = None,
        hosts: frozenset[str] = frozenset(),
    ) -> None:
        """Binds at once. Raises UsageError where the address cannot be had."""
        host, port = listen
        host = "127.0.0.1" if host == "localhost" else host
        local = _is_loopback(host)
        app = create_app(store, receiver, token=token, hosts=_LOCAL_NAMES | hosts if local else None)
        self._map: dict[int, object] = {}
        try:
            self._server = create_server(
                app, map=self._map, host=host, port=port, threads=_THREADS, ident=None,
                clear_untrusted_proxy_headers=True,
            )  # fmt: skip
        except OSError as error:
            raise UsageError(
                f"--listen {_address(host, port)}: {(error.strerror or str(error)).lower()}; name another one"
            ) from error
        self.port: int = self._server.socket.getsockname()[1]
        self.url = f"http://{_address(host, self.port)}/"
        self._stopping = False
        self._thread = threading.Thread(target=self._serve, name="page", daemon=True)

    def start(self) -> None:
        """Begin to answer."""
        self._thread.start()

    def stop(self) -> None:
        """Answer no more; requests under way have a moment."""
        self._stopping = True
        if self._thread.is_alive():
            self._server.pull_trigger()
            self._thread.join(_END_S)
        self._server.close()
        self._server.task_dispatcher.shutdown(timeout=_END_S)
        wasyncore.close_all(self._map, ignore_all=True)  # connections that browsers keep open

    def _serve(self) -> None:
        while not self._stopping:
            wasyncore.loop(timeout=1.0, use_poll=True, map=self._map, count=1)


def create_app(
    store: Store,
    receiver: Callable[[], ReceiverStatus],
    *,
    token: str | None,
    hosts: frozenset[str] | None,
) -> flask.Flask:
    """The WSGI application. ``hosts``: the names that it answers to; None for all."""
    app = flask.Flask(__name__, static_folder="static", template_folder="templates")
    app.config["SEND_FILE_MAX_AGE_DEFAULT"] = 300
    app.jinja_options = {"trim_blocks": True, "lstrip_blocks": True}
    app.jinja_env.filters.update(wording.FILTERS)
    app.jinja_env.globals.update(
        version=__version__,
        stages=wording.STAGES,
        columns=charts.columns,
        spark=charts.spark,
        shares=charts.shares,
    )

    @app.before_request
    def guard() -> flask.Response | None:
        if hosts is not None and _name(flask.request.host) not in hosts:
            return _plain(403, "this name is not allowed here; start the controller with --allow-host NAME")
        if token is not None and not _is_known(flask.request, token):
            answer = _plain(401, "a token is needed: any name, and the token as password")
            answer.headers["WWW-Authenticate"] = 'Basic realm="Plugmeter", charset="UTF-8"'
            return answer
        return None

    @app.after_request
    def protect(response: flask.Response) -> flask.Response:
        headers = response.headers
        headers["Content-Security-Policy"] = POLICY
        headers["X-Content-Type-Options"] = "nosniff"
        headers["Referrer-Policy"] = "no-referrer"
        headers["Cross-Origin-Opener-Policy"] = "same-origin"
        headers["Cross-Origin-Resource-Policy"] = "same-origin"
        headers.setdefault("Cache-Control", "no-store")
        return response

    @app.errorhandler(HTTPException)
    def explain(error: HTTPException) -> tuple[Any, int]:
        code = error.code or 500
        if flask.request.path.startswith("/api/"):
            return flask.jsonify(error=error.name), code
        words = {404: "There is no such page.", 405: "This page only shows; it changes nothing."}
        text = words.get(code, error.name)
        return flask.render_template("problem.html", title=error.name, text=text, **_frame(receiver)), code

    @app.errorhandler(StoreTrouble)
    def regret(error: StoreTrouble) -> tuple[Any, int]:
        if flask.request.path.startswith("/api/"):
            return flask.jsonify(error=str(error)), 503
        text = f"{error}."
        return flask.render_template("problem.html", title="Not now", text=text, **_frame(receiver)), 503

    @app.get("/")
    def fleet() -> str:
        now_ms = _now_ms()
        with store.reading() as session:
            found = queries.fleet(session, queries.hour_of(now_ms) - DAY_HOURS)
        view = fleet_view.fleet(found, now_ms, _listening_ms(receiver()))
        return flask.render_template("fleet.html", fleet=view, **_frame(receiver, now_ms))

    @app.get("/device/<name>")
    def device(name: str) -> str:
        found = _device_view(store, name, _asked(), _listening_ms(receiver()))
        frame = {**_frame(receiver), **found}
        return flask.render_template("device.html", spans=SPANS, **frame)

    @app.get("/api/fleet")
    def api_fleet() -> flask.Response:
        now_ms = _now_ms()
        with store.reading() as session:
            found = queries.fleet(session, queries.hour_of(now_ms) - DAY_HOURS)
        status = receiver()
        view = fleet_view.fleet(found, now_ms, _listening_ms(status))
        return flask.jsonify(now_ms=now_ms, receiver=_receiver(status), **view)

    @app.get("/api/device/<name>")
    def api_device(name: str) -> flask.Response:
        return flask.jsonify(**_device_view(store, name, _asked(), _listening_ms(receiver())))

    return app


def _device_view(store: Store, name: str, asked: Span | None, listening_ms: int | None) -> dict[str, Any]:
    now_ms = _now_ms()
    with store.reading() as session:
        row = queries.device(session, name)
        if row is None:
            flask.abort(404)
        # Of a device that is new a day shows little.
        span = asked or SPANS[1 if now_ms - row.first_ms < HOUR_MS else DAY_HOURS]
        if span.sum_minutes == 1:
            since = queries.minute_of(now_ms) - 60 * span.hours
            sums = queries.minutes(session, row.id, since)
            drops = queries.listener_minutes(session, row.id, since, _MOST)
        else:
            since = queries.hour_of(now_ms) - span.hours - span.column_minutes // 60
            sums = queries.hours(session, row.id, since)
            drops = queries.listener_hours(session, row.id, since, _MOST)
        documents = queries.documents(session, row.id)
        return {
            "now_ms": now_ms,
            "device": device_view.device(
                row,
                documents,
                sums,
                queries.audit(session, row),
                queries.standing(session, row),
                span=span,
                now_ms=now_ms,
                listening_ms=listening_ms,
            ),
            "runs": run_view.runs(queries.runs(session, row.id, _MOST)),
            "losses": device_view.losses(queries.losses(session, row.id, _MOST)),
            "listeners": device_view.listeners(
                queries.listeners(session, row.id, _MOST), drops, span=span, now_ms=now_ms
            ),
            "gaps": diary.lines(queries.noted(session, row.id, ("gap",), _MOST)),
            "link": diary.lines(queries.noted(session, row.id, ("link",), _MOST)),
            "diary": diary.lines(queries.noted(session, row.id, queries.DIARY, 2 * _MOST)),
            "tombstones": device_view.tombstones(queries.tombstones(session, row.id, _MOST)),
            "commands": device_view.commands(queries.commands(session, row.id, _MOST)),
        }


def _asked() -> Span | None:
    """The time that is asked for; None where none is."""
    asked = flask.request.args.get("hours")
    if asked is None:
        return None
    if asked not in map(str, SPANS):
        flask.abort(404)
    return SPANS[int(asked)]


def _frame(receiver: Callable[[], ReceiverStatus], now_ms: int | None = None) -> dict[str, Any]:
    return {"now_ms": _now_ms() if now_ms is None else now_ms, "receiver": _receiver(receiver())}


def _receiver(status: ReceiverStatus) -> dict[str, Any]:
    return {
        "state": status.state,
        "broker": status.broker,
        "since_ms": status.since_ms,
        "reason": status.reason,
        "trouble": status.trouble,
        "counters": dict(status.counters),
    }


def _listening_ms(status: ReceiverStatus) -> int | None:
    return status.since_ms if status.state == "connected" else None


def _plain(code: int, text: str) -> flask.Response:
    return flask.Response(f"{text}\n", code, mimetype="text/plain")


def _is_known(request: flask.Request, token: str) -> bool:
    given = request.authorization
    if given is None:
        return False
    offered = given.token if given.type == "bearer" else given.password if given.type == "basic" else None
    return offered is not None and hmac.compare_digest(offered.encode(), token.encode())


def _name(host: str) -> str:
    """A Host header without its port."""
    if host.startswith("["):
        return host.partition("]")[0] + "]"
    return host.rpartition(":")[0].lower() if ":" in host else host.lower()


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _address(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
