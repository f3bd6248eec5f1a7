"""Pages for operators: metrics, health and readiness."""

from __future__ import annotations

import json

from prometheus_client import CollectorRegistry
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest

from optserve_server.operations.http_server import HttpRequest, HttpResponse, Page
from optserve_server.operations.metrics import ServerCollector
from optserve_server.rpc.server.server import Server


def make_operator_pages(server: Server) -> dict[str, Page]:
    """``/metrics``; ``/healthz``, 200 while the loop runs; ``/readyz``, while calls are accepted."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(ServerCollector(server))

    async def metrics(request: HttpRequest) -> HttpResponse:
        return HttpResponse(200, CONTENT_TYPE_LATEST, generate_latest(registry))

    async def healthz(request: HttpRequest) -> HttpResponse:
        return HttpResponse(200, "text/plain", b"ok\n")

    async def readyz(request: HttpRequest) -> HttpResponse:
        troubles = server.list_problems()
        body = json.dumps({"ready": not troubles, "troubles": troubles}) + "\n"
        return HttpResponse(503 if troubles else 200, "application/json", body.encode())

    return {"/metrics": metrics, "/healthz": healthz, "/readyz": readyz}
