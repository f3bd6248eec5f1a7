"""The short form of ``make federated``."""

from __future__ import annotations

import asyncio

import pytest

from chaos.federated.campaign import MAX_LATE_SECONDS, Campaign
from tests.support.server import running_server


@pytest.mark.slow
def test_rounds_close_at_their_deadlines_though_clients_drop_out() -> None:
    with running_server() as server:
        campaign = Campaign(server.address, clients=100, size=50, deadline=1.5, dropout=0.3, seed=5)
        found = asyncio.run(campaign.run(2))
    print("\n".join(found.lines()))
    assert [len(one.contributed) + one.too_late for one in found.rounds] == [70, 70]
    assert -0.1 < found.latest < MAX_LATE_SECONDS
