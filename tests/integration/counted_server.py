"""A server that counts its Python calls by file: ``python -m`` runs it, and they are written at its end."""

from __future__ import annotations

import json
import os
import sys
from collections import Counter
from pathlib import Path
from types import FrameType

from optserve_server.__main__ import main

VARIABLE = "CALL_COUNTS_PATH"
"""Environment variable that names the file: a JSON object of calls by file name."""


def count() -> None:
    """Runs a server under a profile of its main thread, where its event loop runs."""
    calls: Counter[str] = Counter()

    def on_call(frame: FrameType, event: str, argument: object) -> None:
        if event == "call":
            calls[frame.f_code.co_filename] += 1

    sys.setprofile(on_call)
    try:
        main()
    finally:
        sys.setprofile(None)
        Path(os.environ[VARIABLE]).write_text(json.dumps(calls))


if __name__ == "__main__":
    count()
