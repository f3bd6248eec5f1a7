"""Our server on a disk that takes 0.6 ms for a sync, whatever this machine's takes.

A virtual disk was measured to take that for 40 KB. Where a sync takes less than a step, many
clients have nothing to share.
"""

from __future__ import annotations

import sys

from optserve_server.__main__ import main
from optserve_server.durability import recovery
from tests.support.disks import SlowDisk

SECONDS = 0.0006


def slow_disk() -> SlowDisk:
    """The disk."""
    return SlowDisk(SECONDS)


if __name__ == "__main__":
    setattr(recovery, "Disk", slow_disk)  # noqa: B010  what the server makes its disk with
    sys.exit(main())
