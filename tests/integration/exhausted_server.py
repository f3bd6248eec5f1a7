"""A server whose process has no file descriptor left from SIGUSR1 on: ``python -m`` runs it."""

from __future__ import annotations

import errno
import os
import resource
import signal
import sys
import threading
import time

from optserve_server.__main__ import main

LIMIT = 128
"""RLIMIT_NOFILE, soft and hard."""

PAUSE_S = 0.02
"""After which a descriptor that was given back is taken."""


def take_all() -> None:
    """Takes every descriptor that is free, again and again."""
    while True:
        try:
            os.open(os.devnull, os.O_RDONLY)
        except OSError as error:
            if error.errno != errno.EMFILE:
                raise
            time.sleep(PAUSE_S)


if __name__ == "__main__":
    resource.setrlimit(resource.RLIMIT_NOFILE, (LIMIT, LIMIT))
    signal.signal(signal.SIGUSR1, lambda *_: threading.Thread(target=take_all, daemon=True).start())
    sys.exit(main())
