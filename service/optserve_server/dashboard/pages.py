"""Pages of the dashboard: static files, and sessions as JSON."""

from __future__ import annotations

import ipaddress
import json
import math
from importlib import resources
from typing import Any

from optserve_server.dashboard.session_view import describe_session, summarize_session
from optserve_server.errors import DomainError
from optserve_server.operations.http_server import HttpRequest, HttpResponse, Page
from optserve_server.rpc.authentication.identity import Caller
from optserve_server.rpc.server.server import Server

MAX_SESSIONS = 500
"""Sessions in the list, the first by name."""

_FILES = {
    "/": ("index.html", "text/html; charset=utf-8"),
    "/dashboard/dashboard.js": ("dashboard.js", "text/javascript; charset=utf-8"),
    "/dashboard/dashboard.css": ("dashboard.css", "text/css; charset=utf-8"),
    "/dashboard/icon.svg": ("icon.svg", "image/svg+xml"),
    "/dashboard/uplot.js": ("uPlot.iife.min.js", "text/javascript; charset=utf-8"),
    "/dashboard/uplot.css": ("uPlot.min.css", "text/css; charset=utf-8"),
}


def make_dashboard_pages(server: Server) -> dict[str, Page]:
    """Pages by path.

    Callers see the sessions of their namespace. With tokens, a request for JSON needs one in its header
    ``authorization``. Without, it must name the host by address or as localhost: a web page elsewhere,
    whose own name was made to point here, cannot read the answers.
    """

    async def sessions(request: HttpRequest) -> HttpResponse:
        caller = _authenticate(server, request)
        if isinstance(caller, HttpResponse):
            return caller
        page, _ = caller.namespace.store.list_page(MAX_SESSIONS)
        return _json_response(
            {
                "namespace": caller.namespace.name,
                "session_count": len(caller.namespace.store),
                "sessions": [summarize_session(session) for session in page],
            }
        )

    async def session(request: HttpRequest) -> HttpResponse:
        caller = _authenticate(server, request)
        if isinstance(caller, HttpResponse):
            return caller
        found = caller.namespace.store.find(request.query.get("id", ""))
        if found is None:
            return _json_response({"error": "there is no such session"}, 404)
        async with found.lock:
            described = describe_session(found)
        described["snapshots"] = await server.list_snapshots(found)
        return _json_response(described)

    pages: dict[str, Page] = {"/dashboard/sessions": sessions, "/dashboard/session": session}
    folder = resources.files("optserve_server.dashboard") / "static"
    for path, (name, content_type) in _FILES.items():
        pages[path] = _make_file_page((folder / name).read_bytes(), content_type)
    return pages


def _make_file_page(body: bytes, content_type: str) -> Page:
    async def page(request: HttpRequest) -> HttpResponse:
        return HttpResponse(200, content_type, body)

    return page


def _authenticate(server: Server, request: HttpRequest) -> Caller | HttpResponse:
    """The caller of a request, or the answer that rejects it."""
    given = request.headers.get("authorization")
    try:
        caller = server.identities.authenticate([] if given is None else [("authorization", given)])
    except DomainError as error:
        return _json_response({"error": error.message}, 401)
    if caller.token is None and not _names_host_by_address(request.headers.get("host", "")):
        text = "without a token, the host must be an IP address or localhost"
        return _json_response({"error": text}, 403)
    return caller


def _names_host_by_address(host: str) -> bool:
    name = host.rpartition(":")[0] if host.rpartition(":")[2].isdigit() else host
    try:
        return name == "localhost" or bool(ipaddress.ip_address(name.strip("[]")))
    except ValueError:
        return False


def _json_response(value: Any, status: int = 200) -> HttpResponse:
    text = json.dumps(_replace_non_finite(value), allow_nan=False, separators=(",", ":"))
    return HttpResponse(status, "application/json", text.encode())


def _replace_non_finite(value: Any) -> Any:
    """The value with None for NaN and infinities, which JSON cannot state."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {name: _replace_non_finite(one) for name, one in value.items()}
    return [_replace_non_finite(one) for one in value] if isinstance(value, list | tuple) else value
