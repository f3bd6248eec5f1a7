"""Release of shared memory that is not fetched, or is fetched without permission."""

from __future__ import annotations

import asyncio
import os

import numpy as np
import pytest

from optserve_server.rpc.transport import descriptor_passing
from optserve_server.rpc.transport.descriptor_passing import DescriptorPassing
from optserve_server.shared_memory.regions import Regions, make_region
from tests.service.sessions.support import session_of, spec_of
from tests.support.shared_memory import claim, count_held_by


@pytest.fixture
def session():
    return session_of(spec_of(), {"w": np.ones(3, np.float32)})


def hand_over(session, work):
    """Runs ``work(handover, regions, region)`` beside a handover that listens."""

    async def run():
        regions = Regions(100, 0.0)
        door = DescriptorPassing(regions)
        door.start()
        region = make_region(session, None, None, None)
        regions.add(region)
        door.schedule_expiry(region)
        await work(door, regions, region)
        await door.stop()
        assert len(regions) == 0

    before = count_held_by(os.getpid())
    asyncio.run(run())
    assert count_held_by(os.getpid()) <= before


async def fetch(door, region):
    connection, descriptors = await asyncio.to_thread(claim, door.name, region.name)
    for descriptor in descriptors:
        os.close(descriptor)
    return connection, len(descriptors)


async def until_none(regions):
    async with asyncio.timeout(20):
        while len(regions):
            await asyncio.sleep(0.01)


def test_what_is_not_fetched_in_time_is_dropped(session, monkeypatch):
    monkeypatch.setattr(descriptor_passing, "CLAIM_TIMEOUT_S", 0.05)

    async def work(door, regions, region):
        await until_none(regions)
        connection, count = await fetch(door, region)
        with connection:
            assert count == 0

    hand_over(session, work)


def test_what_is_fetched_stays_for_as_long_as_the_connection(session, monkeypatch):
    monkeypatch.setattr(descriptor_passing, "CLAIM_TIMEOUT_S", 0.2)

    async def work(door, regions, region):
        connection, count = await fetch(door, region)
        await asyncio.sleep(0.4)
        assert (len(regions), count) == (1, 1)
        connection.close()
        await until_none(regions)

    hand_over(session, work)


def test_another_user_gets_nothing(session, monkeypatch):
    own = os.geteuid()
    monkeypatch.setattr(os, "geteuid", lambda: own + 1)

    async def work(door, regions, region):
        connection, count = await fetch(door, region)
        with connection:
            assert count == 0
        assert not region.claimed

    hand_over(session, work)
