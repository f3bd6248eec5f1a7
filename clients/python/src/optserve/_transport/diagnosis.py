"""Diagnosis of a server that cannot be reached."""

from __future__ import annotations

import os
import socket
import ssl

TIMEOUT_S = 1.0
PROXY_VARIABLES = ("grpc_proxy", "https_proxy", "http_proxy")


def diagnose_connection(address: tuple[str, int] | None, *, is_tls: bool, uses_proxy: bool) -> str:
    """Says in a clause what seems to be the matter; empty if nothing was found.

    Args:
        address: host and port of the server; None if the target is no single one.
        is_tls: whether the client speaks TLS.
        uses_proxy: whether calls go through a proxy that an environment variable names.
    """
    if address is None:
        return ""
    where = "{}:{}".format(*address)
    proxy = next((name for name in PROXY_VARIABLES if uses_proxy and os.environ.get(name)), None)
    if proxy is not None:
        return f"{proxy} is set, so calls go through that proxy; no_proxy={address[0]} would go without"
    try:
        with socket.create_connection(address, TIMEOUT_S) as connection:
            speaks_tls = _speaks_tls(connection, address[0])
    except socket.gaierror:
        return f"the host name {address[0]!r} cannot be resolved"
    except ConnectionRefusedError:
        return f"no server listens at {where}"
    except OSError as error:
        return f"{where} cannot be reached ({error.strerror or 'timed out'})"
    if speaks_tls and not is_tls:
        return f"the server at {where} speaks TLS: pass credentials to connect"
    if not speaks_tls and is_tls:
        return f"the server at {where} does not speak TLS: leave credentials out, or try another port"
    return ""


def _speaks_tls(connection: socket.socket, host: str) -> bool:
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.set_alpn_protocols(["h2"])
    connection.settimeout(TIMEOUT_S)
    try:
        context.wrap_socket(connection, server_hostname=host).close()
    except ssl.SSLError as error:
        # A server that asks for a certificate, or for another version, answers with an alert.
        return "ALERT" in (error.reason or "")
    except OSError:
        return False
    return True
