"""A server as they were before there were data connections."""

from __future__ import annotations

import sys
from typing import NoReturn

from optserve_server.__main__ import main
from optserve_server.errors import DomainError, Reason
from optserve_server.rpc.streaming.stream_messages import StreamMessages


async def unknown(self: StreamMessages, request: object) -> NoReturn:
    """Rejects what has neither a plan, a step nor a chunk."""
    raise DomainError(Reason.STREAM_PROTOCOL, "the message is empty")


if __name__ == "__main__":
    StreamMessages.switch_to_data_connection = unknown  # type: ignore[method-assign]
    sys.exit(main())
