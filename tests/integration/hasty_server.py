"""A server whose data connections have less time than others', and fewer of them may be strangers."""

from __future__ import annotations

import sys

from optserve_server.__main__ import main
from optserve_server.rpc.transport import data_connections

CLAIM_SECONDS = 1.0
STRANGERS = 4

if __name__ == "__main__":
    data_connections.CLAIM_SECONDS, data_connections.STRANGERS = CLAIM_SECONDS, STRANGERS
    sys.exit(main())
