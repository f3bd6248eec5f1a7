"""The command ``optserve-server``."""

from __future__ import annotations

import asyncio
import os
import sys

from optserve_server import token_command
from optserve_server.allocator import keep_messages
from optserve_server.app import serve
from optserve_server.config import ConfigError, load
from optserve_server.loop import event_loop
from optserve_server.rpc import logs


def main() -> int:
    """Runs a server; returns the exit status: 0, 1 where it cannot start, 2 for a wrong setting.

    With ``token`` as its first argument it makes a bearer token instead.
    """
    if sys.argv[1:2] == ["token"]:
        return token_command.main(sys.argv[2:])
    keep_messages()
    try:
        settings = load(sys.argv[1:], os.environ)
        logs.configure(settings.log_level)
        with asyncio.Runner(loop_factory=event_loop()) as runner:
            runner.run(serve(settings))
    except ConfigError as error:
        print(f"optserve-server: {error}", file=sys.stderr)
        return 2
    except (RuntimeError, OSError) as error:
        print(f"optserve-server: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
