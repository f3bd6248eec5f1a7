"""Listening addresses, and the check that they are encrypted or local."""

from __future__ import annotations

import ipaddress
import logging
import os
import socket
from dataclasses import dataclass

from grpc import aio

from optserve_server.rpc.transport.data_connections import DataConnections
from optserve_server.rpc.transport.tls import Certificates

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Listening:
    """Addresses to listen on.

    Attributes:
        host: address or name; None for no TCP.
        port: 0 picks a free one.
        unix_socket: path of a Unix socket that only its owner may use, without TLS; None for none.
        certificates: of the TCP port; None for plaintext.
        data_port: of data connections, at the same host; 0 picks a free one, None for none. There
            are none beside TLS, which they would evade.
    """

    host: str | None = "127.0.0.1"
    port: int = 0
    unix_socket: str | None = None
    certificates: Certificates | None = None
    data_port: int | None = 0

    def open(self, server: aio.Server) -> int:
        """Opens everything, and returns the TCP port; 0 if there is none.

        Raises:
            RuntimeError: an address cannot be bound.
        """
        if self.unix_socket is not None:
            # No other user may connect, from its first moment on.
            before = os.umask(0o177)
            try:
                server.add_insecure_port(f"unix:{self.unix_socket}")
            finally:
                os.umask(before)
        if self.host is None:
            return 0
        address = f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"
        if self.certificates is None:
            return server.add_insecure_port(address)
        return server.add_secure_port(address, self.certificates.credentials())

    def open_data(self, data: DataConnections, server_port: int) -> None:
        """Opens the port of data connections, if there is to be one.

        Raises:
            RuntimeError: the port was asked for and cannot be bound.
        """
        if self.host is None or self.certificates is not None or self.data_port is None:
            return
        try:
            data.start(self.host, self.data_port, server_port)
        except OSError as error:
            if self.data_port:
                raise RuntimeError(f"data_port {self.data_port} cannot be bound: {error}") from error
            _log.warning("no data connections: %s", error)


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach the address, or every address of the name."""
    try:
        found = {str(info[4][0]) for info in socket.getaddrinfo(host, None)}
    except OSError:
        return False  # gRPC will say what is wrong with it
    return bool(found) and all(ipaddress.ip_address(a.partition("%")[0]).is_loopback for a in found)
