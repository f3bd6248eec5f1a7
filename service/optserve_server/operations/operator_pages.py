"""Pages for operators: metrics, health and readiness."""

from __future__ import annotations

import json

from prometheus_client import CollectorRegistry
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest

from optserve_server.operations.http_server import HttpServer, Page
from optserve_server.operations.metrics import ServerCollector
from optserve_server.rpc.server.server import Server


def make_http_server(server: Server) -> HttpServer:
    """``/metrics``; ``/healthz``, which answers while the process does; ``/readyz``, while it takes calls."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(ServerCollector(server))

    def metrics() -> tuple[int, str, bytes]:
        return 200, CONTENT_TYPE_LATEST, generate_latest(registry)

    def readyz() -> tuple[int, str, bytes]:
        troubles = server.list_problems()
        body = json.dumps({"ready": not troubles, "troubles": troubles}) + "\n"
        return (503 if troubles else 200), "application/json", body.encode()

    pages: dict[str, Page] = {
        "/metrics": metrics,
        "/healthz": lambda: (200, "text/plain", b"ok\n"),
        "/readyz": readyz,
    }
    return HttpServer(pages)
