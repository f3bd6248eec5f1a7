"""What of shared memory a process holds, as the kernel tells it; and a client written by hand."""

from __future__ import annotations

import contextlib
import mmap
import os
import socket
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt

from optserve.v1 import session_service_pb2 as pb

BLOCK = "/memfd:optserve"


def count_held_by(pid: int) -> int:
    """Descriptors and mappings of shared blocks in a process."""
    descriptors = 0
    for link in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):
            descriptors += os.readlink(link).startswith(BLOCK)
    mappings = Path(f"/proc/{pid}/maps").read_text().count(BLOCK)
    return descriptors + mappings


def in_dev_shm() -> set[str]:
    """What lies there, by whomever."""
    return {path.name for path in Path("/dev/shm").iterdir()}


def claim(name: str, region: str) -> tuple[socket.socket, list[int]]:
    """Fetches a region as the contract describes it; no descriptors where it is refused."""
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    connection.settimeout(20)
    connection.connect(f"\0{name}")
    try:
        connection.send(region.encode())
        told, descriptors, _, _ = socket.recv_fds(connection, 1, 2)
    except (BrokenPipeError, ConnectionResetError):
        return connection, []
    assert told == (b"\1" if descriptors else b"")
    return connection, list(descriptors)


@contextlib.contextmanager
def map_memory(answer: pb.ShareMemoryResponse) -> Iterator[list[npt.NDArray[np.uint8]]]:
    """The bytes of gradients and parameters, for as long as the block runs."""
    connection, descriptors = claim(answer.socket, answer.region)
    with connection:
        lengths = [answer.gradients.byte_count, answer.parameters.byte_count]
        access = [mmap.PROT_READ | mmap.PROT_WRITE, mmap.PROT_READ]
        try:
            yield [
                np.frombuffer(mmap.mmap(descriptor, length, prot=prot), np.uint8)
                for descriptor, length, prot in zip(descriptors, lengths, access, strict=False)
            ]
        finally:
            for descriptor in descriptors:
                os.close(descriptor)
