"""A server that soon abandons the work of requests whose callers have left: ``python -m`` runs it."""

from __future__ import annotations

import sys

from optserve_server.__main__ import main
from optserve_server.sessions import audience

ABANDON_AFTER_S = 0.5

if __name__ == "__main__":
    audience.ABANDON_AFTER_S = ABANDON_AFTER_S
    sys.exit(main())
