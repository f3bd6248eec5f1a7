"""The command ``optserve-server``."""

from __future__ import annotations

import asyncio
import os
import sys

from optserve_server import health_command
from optserve_server.config import ConfigError, load


def main() -> int:
    """Runs a server; returns the exit status: 0, 1 where it cannot start, 2 for a wrong setting.

    With ``health`` as its first argument it asks a running server whether it is ready, with
    ``token`` it makes a bearer token.
    """
    if sys.argv[1:2] == ["health"]:
        return health_command.main(sys.argv[2:])
    return _token() if sys.argv[1:2] == ["token"] else _serve()


def _token() -> int:
    from optserve_server import token_command

    return token_command.main(sys.argv[2:])


def _serve() -> int:
    # Here, because loading a server takes a second of the processor, and health is asked often.
    from optserve_server.allocator import keep_messages
    from optserve_server.app import serve
    from optserve_server.loop import event_loop
    from optserve_server.rpc import logs

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
