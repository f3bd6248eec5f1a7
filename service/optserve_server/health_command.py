"""``optserve-server health``: asks a running server whether it takes calls."""

from __future__ import annotations

import http.client
import os
import sys
from collections.abc import Mapping, Sequence

from optserve_server.config import METRICS_PORT, ConfigError, load

_SECONDS = 3.0
"""How long an answer may take."""

_OWN_ADDRESS = {"0.0.0.0": "127.0.0.1", "::": "::1"}
"""Where to ask a server that listens on every address."""


def main(arguments: Sequence[str], environment: Mapping[str, str] = os.environ) -> int:
    """Prints what ``/readyz`` says; returns 0 where the server is ready, 1 where not, 2 for a wrong setting.

    Args:
        arguments: the flags that the server was started with, of which two matter:
            ``--metrics-host`` and ``--metrics-port``.
        environment: its environment variables.
    """
    try:
        settings = load(arguments, environment)
        if settings.metrics_port == "off":
            raise ConfigError("metrics_port is off, so there is no page to ask")
    except ConfigError as error:
        print(f"optserve-server health: {error}", file=sys.stderr)
        return 2
    host = _OWN_ADDRESS.get(settings.metrics_host, settings.metrics_host)
    port = METRICS_PORT if settings.metrics_port == "auto" else int(settings.metrics_port)
    try:
        status, text = _asked(host, port)
    except (OSError, http.client.HTTPException) as error:
        status, text = 0, f"no answer from {host}, port {port}: {error}"
    print(text)
    return 0 if status == 200 else 1


def _asked(host: str, port: int) -> tuple[int, str]:
    connection = http.client.HTTPConnection(host, port, timeout=_SECONDS)
    try:
        connection.request("GET", "/readyz")
        answer = connection.getresponse()
        return answer.status, answer.read(1 << 16).decode("utf-8", "replace").strip()
    finally:
        connection.close()
