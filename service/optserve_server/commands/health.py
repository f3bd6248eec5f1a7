"""``optserve-server health``: asks a running server whether it is ready."""

from __future__ import annotations

import argparse
import http.client

from optserve_server import config

DESCRIPTION = "Prints the readiness of a running server. The exit status is 0 if it is ready, otherwise 1."

_TIMEOUT_S = 3.0

_LOOPBACK = {"0.0.0.0": "127.0.0.1", "::": "::1"}
"""Address of a server that listens on every address."""


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Adds the server's flags: the command line of a server, of which metrics_host and metrics_port count."""
    config.add_flags(parser)


def run(parsed: argparse.Namespace) -> int:
    """Prints what ``/readyz`` says.

    Args:
        parsed: flags of the server.

    Returns:
        The exit status: 0 if the server is ready, otherwise 1.

    Raises:
        ConfigError: a setting is wrong, or the server has no metrics port.
    """
    settings = config.load_settings(vars(parsed))
    if settings.metrics_port == "off":
        raise config.ConfigError("metrics_port is off, but health needs the page /readyz at that port")
    host = _LOOPBACK.get(settings.metrics_host, settings.metrics_host)
    port = config.METRICS_PORT if settings.metrics_port == "auto" else settings.metrics_port
    try:
        status, text = _get_readiness(host, port)
    except (OSError, http.client.HTTPException) as error:
        status, text = 0, f"no answer from {host}, port {port}: {error}"
    print(text)
    return 0 if status == 200 else 1


def _get_readiness(host: str, port: int) -> tuple[int, str]:
    """Status and body of ``/readyz``."""
    connection = http.client.HTTPConnection(host, port, timeout=_TIMEOUT_S)
    try:
        connection.request("GET", "/readyz")
        answer = connection.getresponse()
        return answer.status, answer.read(1 << 16).decode("utf-8", "replace").strip()
    finally:
        connection.close()
