"""``make federated``: 1,000 simulated clients, 30 % of which drop out of each round; and the figures."""

from __future__ import annotations

import argparse
import asyncio
import random
import sys

from chaos.federated.campaign import MAX_LATE_SECONDS, Campaign
from tests.support.server import running_server


def main() -> int:
    """Prints what was found; returns 1 if a round closed too late."""
    parser = argparse.ArgumentParser(prog="python -m chaos.federated", description=__doc__)
    parser.add_argument("--clients", type=int, default=1000)
    parser.add_argument("--dropout", type=float, default=0.3)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--deadline", type=float, default=5.0, help="of a round, in seconds")
    parser.add_argument("--size", type=int, default=1000, help="number of parameters")
    parser.add_argument("--seed", type=int, default=random.randrange(1 << 30))
    stated = parser.parse_args()
    print(f"seed {stated.seed}", flush=True)
    with running_server(max_concurrent_rpcs=4 * stated.clients) as server:
        campaign = Campaign(
            server.address,
            clients=stated.clients,
            size=stated.size,
            deadline=stated.deadline,
            dropout=stated.dropout,
            seed=stated.seed,
        )
        found = asyncio.run(campaign.run(stated.rounds))
    print("\n".join(found.lines()), flush=True)
    return int(found.latest > MAX_LATE_SECONDS)


if __name__ == "__main__":
    sys.exit(main())
