"""A server that may open few files: ``python -m`` runs it."""

from __future__ import annotations

import resource

from optserve_server.__main__ import main

LIMIT = 256
"""RLIMIT_NOFILE, soft and hard."""

if __name__ == "__main__":
    resource.setrlimit(resource.RLIMIT_NOFILE, (LIMIT, LIMIT))
    main()
