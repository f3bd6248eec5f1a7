"""Memory shared with a server on the same host: fetched, checked, mapped."""

from __future__ import annotations

import fcntl
import math
import mmap
import os
import socket
import stat
import struct
import sys
import weakref
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from optserve._codec import dtypes
from optserve._codec.buffer_pool import LARGE_BYTES
from optserve._codec.dtypes import Array
from optserve.v1 import session_service_pb2 as wire

_PEER = struct.Struct("3i")
"""What SO_PEERCRED gives: process, user and group."""


class SharedMemory:
    """A region that a server has shared, mapped.

    The memory belongs to no file. It is freed when it is no longer mapped, so arrays that view
    it stay good for as long as they are kept, also after `close`.

    Args:
        response: where it is to be fetched, and what it holds.

    Attributes:
        region: its name.
        gradients: arrays to write gradients into, by tensor name.
        parameters: the values that follow a step; read-only arrays by tensor name.
        is_small: whether those are few bytes, for which memory need not be kept.
        live: whether those are the session's parameters themselves, which any step moves.
        is_open: whether `close` was not called.

    Raises:
        OSError: it could not be fetched, or is not what it should be.
        ValueError: the server's description of it contradicts itself.
    """

    def __init__(self, response: wire.ShareMemoryResponse) -> None:
        parts = [response.gradients]
        if response.HasField("parameters"):
            parts.append(response.parameters)
        self.region = response.region
        lease, descriptors = _fetch_descriptors(response)
        self.is_open = True
        self._end = weakref.finalize(self, lease.close)
        try:
            if len(descriptors) != len(parts):
                raise OSError(f"{len(descriptors)} descriptors came where {len(parts)} were due")
            blocks = [
                _map_descriptor(d, part.byte_count, i == 0)
                for i, (d, part) in enumerate(zip(descriptors, parts, strict=True))
            ]
            self.gradients = _tensor_views(response.gradients, blocks[0])
            self.parameters = _tensor_views(response.parameters, blocks[1]) if blocks[1:] else {}
            self.live = response.parameters.live
            self.is_small = sum(array.nbytes for array in self.parameters.values()) < LARGE_BYTES
            self._counters = blocks[1][:16].data.cast("Q") if self.live else None
        except BaseException:
            self.close()
            raise
        finally:
            for descriptor in descriptors:
                os.close(descriptor)

    def close(self) -> None:
        """Releases the memory, as its finalizer does automatically; the server drops it."""
        self.is_open = False
        self._end()

    def copy_parameters_to(self, targets: Mapping[str, Array], change: int) -> bool:
        """Copies the values that follow a step.

        Args:
            targets: an array for each of `parameters`.
            change: how many changes they are the outcome of, if they are live.

        Returns:
            Whether they are of that moment; they are not if another worker's step came between.
        """
        counters = self._counters
        before = 0 if counters is None else counters[1]
        for name, array in self.parameters.items():
            np.copyto(targets[name], array, casting="unsafe")
        return counters is None or before == counters[0] == change

    def copy_parameters(self, change: int) -> dict[str, Array] | None:
        """Copies of the values that follow a step, or None if they are not of that moment.

        Args:
            change: as for `copy_parameters_to`.
        """
        counters = self._counters
        before = 0 if counters is None else counters[1]
        arrays = {name: array.copy() for name, array in self.parameters.items()}
        return arrays if counters is None or before == counters[0] == change else None


def _fetch_descriptors(response: wire.ShareMemoryResponse) -> tuple[socket.socket, list[int]]:
    """Returns the connection that keeps the memory, and the descriptors that came over it."""
    if not sys.platform.startswith("linux"):
        raise OSError("this system has no abstract unix sockets")
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    try:
        connection.settimeout(max(1.0, response.claim_within.ToTimedelta().total_seconds()))
        connection.connect(f"\0{response.socket}")
        _, user, _ = _PEER.unpack(connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _PEER.size))
        if user != os.geteuid():
            raise PermissionError("the socket belongs to another user")
        connection.send(response.region.encode())
        told, descriptors, _, _ = socket.recv_fds(connection, 1, 2)
        if not told:
            raise ConnectionRefusedError("the server sent no descriptor")
    except BaseException:
        connection.close()
        raise
    return connection, descriptors


def _map_descriptor(descriptor: int, byte_count: int, writable: bool) -> NDArray[np.uint8]:
    """Maps a descriptor whose length cannot be changed."""
    status = os.fstat(descriptor)
    if not stat.S_ISREG(status.st_mode) or status.st_uid != os.geteuid():
        raise OSError("the descriptor is not a memory file of this user")
    if not fcntl.fcntl(descriptor, fcntl.F_GET_SEALS) & fcntl.F_SEAL_SHRINK:
        raise OSError("the memory could be shortened at any time")
    if status.st_size != max(byte_count, 1):
        raise OSError(f"the memory has {status.st_size} bytes, and not {byte_count}")
    access = mmap.PROT_READ | (mmap.PROT_WRITE if writable else 0)
    flags = mmap.MAP_SHARED | getattr(mmap, "MAP_POPULATE", 0)
    mapping = mmap.mmap(descriptor, status.st_size, flags=flags, prot=access)
    return np.frombuffer(mapping, np.uint8)[:byte_count]


def _tensor_views(part: wire.SharedMemory, block: NDArray[np.uint8]) -> dict[str, Array]:
    arrays = {}
    for tensor in part.layout:
        dtype, shape = dtypes.NUMPY_TYPES[tensor.dtype], tuple(tensor.shape)
        start, stop = tensor.byte_offset, tensor.byte_offset + math.prod(shape) * dtype.itemsize
        arrays[tensor.name] = block[start:stop].view(dtype).reshape(shape)
    return arrays
