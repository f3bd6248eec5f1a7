"""Socket filter of a listening socket: new connections of some addresses are dropped by the kernel.

gRPC accepts connections itself, without a callback. A classic BPF program at the listening socket needs no
privilege, and drops the first packet of a connection before the process hears of it.
"""

from __future__ import annotations

import ctypes
import socket
import struct
from collections.abc import Iterable
from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_address

SO_ATTACH_FILTER, SO_DETACH_FILTER = 26, 27
"""Of Linux' asm-generic/socket.h."""

MAX_ADDRESSES = 128
"""Addresses of one filter: the kernel bounds the memory of a socket's options."""

PREFIX_BYTES = 8
"""Bytes of an IPv6 address that name a network, which one host commonly has as a whole."""

_NETWORK_HEADER = 0xFFF00000
"""SKF_NET_OFF: offsets from there on are those of the IP header."""

_LOAD_WORD, _LOAD_BYTE, _AND, _JUMP, _JUMP_IF_EQUAL, _RETURN = 0x20, 0x30, 0x54, 0x05, 0x15, 0x06
_KEEP = 0xFFFFFFFF

Instruction = tuple[int, int, int, int]
"""Code, instructions to skip if true and if false, operand."""


def peer_network(host: str) -> bytes:
    """What stands for a peer: the four bytes of an IPv4 address, or the first eight of an IPv6 address.

    Raises:
        ValueError: it is no address.
    """
    address = ip_address(host.partition("%")[0])
    if isinstance(address, IPv6Address) and address.ipv4_mapped is not None:
        address = address.ipv4_mapped
    return address.packed if isinstance(address, IPv4Address) else address.packed[:PREFIX_BYTES]


def network_text(network: bytes) -> str:
    """A peer as `peer_network` states it, for logs."""
    if len(network) == PREFIX_BYTES:
        return str(IPv6Network((network + bytes(16 - PREFIX_BYTES), 8 * PREFIX_BYTES)))
    return str(IPv4Address(network))


def drop_new_connections(listener: socket.socket, networks: Iterable[bytes]) -> None:
    """Drops new connections of peers at a listening socket from now on, and takes those of all others.

    Args:
        listener: the socket. Connections that are open stay as they are.
        networks: peers, as of `peer_network`; `MAX_ADDRESSES` at most.

    Raises:
        OSError: the system has no such filters, or no memory for it.
    """
    program = _make_program(sorted(networks))
    if not program:
        listener.setsockopt(socket.SOL_SOCKET, SO_DETACH_FILTER, 0)
        return
    code = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *line) for line in program))
    header = struct.pack("HL", len(program), ctypes.addressof(code))
    listener.setsockopt(socket.SOL_SOCKET, SO_ATTACH_FILTER, header)


def _make_program(networks: list[bytes]) -> list[Instruction]:
    if not networks:
        return []
    of_four: list[Instruction] = [(_LOAD_WORD, 0, 0, _NETWORK_HEADER + 12)]
    of_six: list[Instruction] = []
    for network in networks:
        first, *rest = struct.unpack(f">{len(network) // 4}I", network)
        if not rest:
            of_four += [(_JUMP_IF_EQUAL, 0, 1, first), (_RETURN, 0, 0, 0)]
            continue
        of_six += [
            (_LOAD_WORD, 0, 0, _NETWORK_HEADER + 8),
            (_JUMP_IF_EQUAL, 0, 3, first),
            (_LOAD_WORD, 0, 0, _NETWORK_HEADER + 12),
            (_JUMP_IF_EQUAL, 0, 1, rest[0]),
            (_RETURN, 0, 0, 0),
        ]
    keep: Instruction = (_RETURN, 0, 0, _KEEP)
    version: list[Instruction] = [
        (_LOAD_BYTE, 0, 0, _NETWORK_HEADER),
        (_AND, 0, 0, 0xF0),
        (_JUMP_IF_EQUAL, 1, 0, 0x40),
        (_JUMP, 0, 0, len(of_four) + 1),
    ]
    return [*version, *of_four, keep, *of_six, keep]
