"""The pages of the metrics server, each made of one snapshot of the figures."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Protocol

from plugmeter.lifecycle.exchange import Request, Response
from plugmeter.lifecycle.figures import Figures, liveness, readiness, status_document

_INDEX = b"""\
/metrics  OpenMetrics
/livez    whether every worker moves
/readyz   whether it does its work
/status   JSON, as plugmeter status shows it
"""


class _Exposition(Protocol):
    def scrape(self, accept: str) -> tuple[str, bytes]: ...


class StatusPages:
    """/metrics, /livez, /readyz and /status. ``figures`` is called once for each request, on any thread."""

    def __init__(self, figures: Callable[[], Figures], exposition: _Exposition) -> None:
        self._figures = figures
        self._exposition = exposition

    def __call__(self, request: Request) -> Response | None:
        """The page, or None."""
        match request.path:
            case "/metrics":
                content_type, text = self._exposition.scrape(request.accept)
                return Response(text, content_type)
            case "/livez":
                return _probe(liveness(self._figures()))
            case "/readyz":
                return _probe(readiness(self._figures()))
            case "/status":
                document = json.dumps(status_document(self._figures()), ensure_ascii=True)
                return Response(document.encode("ascii") + b"\n", "application/json")
            case "/":
                return Response(_INDEX)
            case _:
                return None


def _probe(reasons: tuple[str, ...]) -> Response:
    if not reasons:
        return Response(b"ok\n")
    return Response(("\n".join(reasons) + "\n").encode("utf-8", "replace"), status=503)
