"""No optimizer at all: writes what would be a gradient to a file and syncs it.

``python -m benchmarks.contenders.writer N PATH``
"""

from __future__ import annotations

import os
import sys

from benchmarks.contenders.worker import Parameters, serve

MOST = 64 << 20
"""Bytes after which a new file is begun, as a new segment of the journal is."""


def main() -> None:
    """Serves until standard input closes."""
    fd = os.open(sys.argv[2], os.O_RDWR | os.O_CREAT | os.O_TRUNC)
    end = 0

    def step(gradient: Parameters) -> Parameters:
        nonlocal end
        if end >= MOST:
            os.ftruncate(fd, 0)
            end = 0
        end += os.pwrite(fd, gradient.data, end)
        os.fdatasync(fd)
        return gradient

    serve(step, int(sys.argv[1]))


if __name__ == "__main__":
    main()
