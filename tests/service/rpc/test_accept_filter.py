"""The filter of new connections, in the kernel."""

from __future__ import annotations

import socket

import pytest

from optserve_server.rpc.transport.accept_filter import drop_new_connections, network_text, peer_network


def is_accepted(listener: socket.socket, source: str) -> bool:
    """Whether a connection from an address is taken."""
    host, port = listener.getsockname()[:2]
    target = "127.0.0.1" if "." in source else host
    try:
        socket.create_connection((target, port), 0.4, (source, 0)).close()
    except TimeoutError:
        return False
    return True


def test_new_connections_of_some_addresses_are_dropped() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        drop_new_connections(listener, [peer_network("127.0.0.2"), peer_network("127.0.0.4")])
        taken = {n: is_accepted(listener, f"127.0.0.{n}") for n in range(1, 6)}
        assert taken == {1: True, 2: False, 3: True, 4: False, 5: True}
        drop_new_connections(listener, [peer_network("::1"), peer_network("127.0.0.1")])
        assert not is_accepted(listener, "127.0.0.1")
        assert is_accepted(listener, "127.0.0.2")
        drop_new_connections(listener, [])
        assert is_accepted(listener, "127.0.0.1")


def test_a_socket_of_both_protocols_drops_either() -> None:
    with socket.create_server(("::", 0), family=socket.AF_INET6, dualstack_ipv6=True) as listener:
        drop_new_connections(listener, [peer_network("127.0.0.2")])
        assert not is_accepted(listener, "127.0.0.2")
        assert is_accepted(listener, "127.0.0.3")


def test_the_filter_of_many_addresses_fits() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        networks = [peer_network(f"2001:db8:0:{n:x}::1") for n in range(64)]
        networks += [peer_network(f"10.0.0.{n}") for n in range(63)]
        drop_new_connections(listener, [*networks, peer_network("127.0.0.2")])
        assert is_accepted(listener, "127.0.0.1")
        assert not is_accepted(listener, "127.0.0.2")


@pytest.mark.parametrize(
    ("host", "text"),
    [
        ("192.0.2.7", "192.0.2.7"),
        ("::ffff:192.0.2.7", "192.0.2.7"),
        ("2001:db8:1:2:3::4", "2001:db8:1:2::/64"),
        ("fe80::1%eth0", "fe80::/64"),
    ],
)
def test_a_peer_is_an_address_or_a_network(host: str, text: str) -> None:
    assert network_text(peer_network(host)) == text
