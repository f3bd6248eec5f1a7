"""The command ``optserve-server``."""

from __future__ import annotations

import asyncio
import os
import sys

from optserve_server.app import serve
from optserve_server.config import ConfigError, load
from optserve_server.rpc import logs


def main() -> int:
    """Runs a server; returns the exit status: 0, 1 where it cannot start, 2 for a wrong setting."""
    try:
        settings = load(sys.argv[1:], os.environ)
    except ConfigError as error:
        print(f"optserve-server: {error}", file=sys.stderr)
        return 2
    logs.configure(settings.log_level)
    try:
        asyncio.run(serve(settings))
    except (RuntimeError, OSError) as error:
        print(f"optserve-server: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
