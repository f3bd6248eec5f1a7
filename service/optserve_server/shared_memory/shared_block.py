"""Sealed memory that other processes of this host may map and cannot shrink."""

from __future__ import annotations

import ctypes
import fcntl
import mmap
import os
import threading
import weakref
from typing import Any

import numpy as np
import numpy.typing as npt

FUTURE_WRITE = 0x10
"""F_SEAL_FUTURE_WRITE of Linux 5.1, which Python 3.11 has no name for."""

LARGE = 4 << 20
"""Bytes from which memory is unmapped in a thread; the system takes milliseconds for it."""

NAME = "optserve"
"""What the memory is called in ``/proc/<pid>/maps``; names need not differ."""


class SharedBlock:
    """Anonymous memory with a descriptor, the only way to it.

    It lies in no directory, so nothing is left behind when both ends are gone, however they
    went. It is sealed: a client with the descriptor cannot shorten it, which would make the
    server's next access a bus error.

    Args:
        byte_count: its length; one byte at least is taken.
        writable: whether holders of the descriptor may write. Otherwise only this
            process does, through `array`.

    Attributes:
        array: the bytes (uint8). The memory lives as long as a view of it, here or elsewhere.

    Raises:
        OSError: the machine has no such memory, or not as much.
    """

    def __init__(self, byte_count: int, *, writable: bool) -> None:
        if not hasattr(os, "memfd_create"):
            raise OSError("this system has no memfd_create")
        length = max(byte_count, 1)
        self._descriptor = os.memfd_create(NAME, os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        self._close = weakref.finalize(self, os.close, self._descriptor)
        try:
            mapping = _allocate_sealed_memory(self._descriptor, length, writable=writable)
        except BaseException:
            self._close()
            raise
        self.array: npt.NDArray[np.uint8] = np.frombuffer(memoryview(mapping), np.uint8)[:byte_count]

    def fileno(self) -> int:
        """The descriptor.

        Raises:
            ValueError: it is closed.
        """
        if not self._close.alive:
            raise ValueError("the descriptor is closed")
        return self._descriptor

    @property
    def descriptor_count(self) -> int:
        """Descriptors that it holds: one until `close_descriptor`, then none."""
        return int(self._close.alive)

    def close_descriptor(self) -> None:
        """Closes the descriptor, once its holders have it; the memory stays."""
        self._close()

    def close(self) -> None:
        """Lets go of the descriptor and the memory; views of it stay good."""
        self._close()
        self.array = np.empty(0, np.uint8)

    def view(self, byte_offset: int, dtype: np.dtype[Any], size: int) -> npt.NDArray[Any]:
        """``size`` elements from ``byte_offset`` on, flat."""
        return self.array[byte_offset : byte_offset + size * dtype.itemsize].view(dtype)


def _allocate_sealed_memory(descriptor: int, length: int, *, writable: bool) -> ctypes.Array[ctypes.c_uint8]:
    """Allocates, maps and seals the memory of a new descriptor."""
    # Taken at once: where memory runs out, it does so here and not in the middle of a step.
    os.posix_fallocate(descriptor, 0, length)
    mapping = _map_descriptor(descriptor, length)
    seals = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL
    # This process' own mapping was made before the seal, and stays writable.
    fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, seals | (0 if writable else FUTURE_WRITE))
    return mapping


def _map_descriptor(descriptor: int, length: int) -> ctypes.Array[ctypes.c_uint8]:
    """Maps a descriptor's memory until the last view of the result is gone.

    ``mmap.mmap`` would keep a second descriptor for as long; before Python 3.13 it cannot be
    asked not to.

    Raises:
        OSError: there is no address space for it.
    """
    library = ctypes.CDLL(None, use_errno=True)
    library.mmap.restype = ctypes.c_void_p
    library.mmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t, *(ctypes.c_int,) * 3, ctypes.c_long)
    library.munmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t)
    flags = mmap.MAP_SHARED | getattr(mmap, "MAP_POPULATE", 0)
    address = library.mmap(None, length, mmap.PROT_READ | mmap.PROT_WRITE, flags, descriptor, 0)
    if address == ctypes.c_void_p(-1).value:
        raise OSError(ctypes.get_errno(), "cannot map shared memory")
    mapping = (ctypes.c_uint8 * length).from_address(address)
    weakref.finalize(mapping, _unmap_memory, library, address, length).atexit = False
    return mapping


def _unmap_memory(library: ctypes.CDLL, address: int, length: int) -> None:
    """Unmaps memory; for much of it, that takes too long for the event loop."""
    if length < LARGE:
        library.munmap(address, length)
    else:
        threading.Thread(target=library.munmap, args=(address, length), daemon=True).start()
