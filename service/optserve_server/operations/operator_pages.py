"""Pages for operators: metrics, health and readiness."""

from __future__ import annotations

import json
from collections.abc import Callable

from prometheus_client import CollectorRegistry
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
from prometheus_client.registry import Collector

from optserve_server.durability.recovery import RecoveryProgress
from optserve_server.operations.http_server import HttpRequest, HttpResponse, Page
from optserve_server.operations.metrics import RecoveryCollector, ServerCollector
from optserve_server.rpc.server.server import Server


def make_operator_pages(server: Server) -> dict[str, Page]:
    """``/metrics``; ``/healthz``, 200 while the loop runs; ``/readyz``, while calls are accepted."""
    return _make_pages(ServerCollector(server), server.list_problems)


def make_recovery_pages(progress: RecoveryProgress) -> dict[str, Page]:
    """The same pages before there is a server: it is not ready, and says how far the recovery is."""

    def list_problems() -> list[str]:
        if not progress.known:
            return ["the server is starting"]
        return [f"recovering: {progress.examined} of {progress.known} sessions"]

    return _make_pages(RecoveryCollector(progress), list_problems)


def _make_pages(collector: Collector, list_problems: Callable[[], list[str]]) -> dict[str, Page]:
    registry = CollectorRegistry(auto_describe=False)
    registry.register(collector)

    async def metrics(request: HttpRequest) -> HttpResponse:
        return HttpResponse(200, CONTENT_TYPE_LATEST, generate_latest(registry))

    async def healthz(request: HttpRequest) -> HttpResponse:
        return HttpResponse(200, "text/plain", b"ok\n")

    async def readyz(request: HttpRequest) -> HttpResponse:
        troubles = list_problems()
        body = json.dumps({"ready": not troubles, "troubles": troubles}) + "\n"
        return HttpResponse(503 if troubles else 200, "application/json", body.encode())

    return {"/metrics": metrics, "/healthz": healthz, "/readyz": readyz}
