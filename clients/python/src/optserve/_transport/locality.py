"""Detection of a server on this machine."""

from __future__ import annotations

import ipaddress


def is_local(target: str) -> bool:
    """Whether a gRPC target names this machine: a loopback address, or a unix socket."""
    scheme, _, rest = target.partition(":")
    if scheme in ("unix", "unix-abstract"):
        return True
    if scheme in ("ipv4", "ipv6"):
        return all(_is_loopback(address) for address in rest.split(","))
    return _is_loopback(rest.rpartition("/")[2] if scheme == "dns" else target)


def _is_loopback(address: str) -> bool:
    """Whether ``host:port``, or a host alone, is this machine's own."""
    host = address
    if address.startswith("["):
        host = address[1:].partition("]")[0]
    elif address.count(":") == 1:
        host = address.partition(":")[0]
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host.lower() == "localhost"
