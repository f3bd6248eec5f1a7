"""A server with a short claim timeout and a low limit of unauthenticated data connections."""

from __future__ import annotations

import sys

from optserve_server.__main__ import main
from optserve_server.rpc.transport import data_connections

CLAIM_TIMEOUT_S = 1.0
MAX_UNAUTHENTICATED_CONNECTIONS = 4

if __name__ == "__main__":
    data_connections.CLAIM_TIMEOUT_S, data_connections.MAX_UNAUTHENTICATED_CONNECTIONS = (
        CLAIM_TIMEOUT_S,
        MAX_UNAUTHENTICATED_CONNECTIONS,
    )
    sys.exit(main())
