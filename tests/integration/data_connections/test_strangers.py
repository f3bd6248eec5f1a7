"""Connections without a ticket, or without one in time."""

from __future__ import annotations

import contextlib
import socket
import time
from collections.abc import Callable, Iterator
from functools import partial

import pytest

from optserve.v1 import session_service_pb2 as pb
from tests.integration.client import Client, expect_refusal
from tests.integration.data_connections.conftest import TICKET, VALUES, plan, small
from tests.integration.hasty_server import CLAIM_TIMEOUT_S, MAX_UNAUTHENTICATED_CONNECTIONS
from tests.integration.raw_stream import (
    ACCEPTED,
    GREETING,
    SECONDS,
    RawStream,
    asking,
    receive_exactly,
    receive_rest,
)
from tests.support.server import RunningServer, running_server


def strangers() -> dict[str, Callable[[pb.DataConnectionOffer], bytes]]:
    return {
        "wrong ticket": lambda offer: GREETING + bytes(32),
        "no greeting": lambda offer: offer.ticket + offer.ticket,
        "another version": lambda offer: b"optserve data 2\n" + offer.ticket,
        "garbage": lambda offer: b"\0" * 48,
        "HTTP": lambda offer: b"GET / HTTP/1.1\r\n\r\n",
        "HTTP/2": lambda offer: b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        "one wrong byte": lambda offer: b"x",
    }


@pytest.mark.parametrize("who", strangers())
def test_strangers_are_sent_away_without_a_word(stream: RawStream, name: str, who: str) -> None:
    """And at once: none of them would be waited for."""
    offer = stream.offer()
    began = time.monotonic()
    with contextlib.suppress(ConnectionResetError):
        assert stream.knock(strangers()[who](offer), offer.port) == b""
    assert time.monotonic() - began < 5
    assert stream.knock(GREETING + offer.ticket, offer.port) == ACCEPTED
    stream.say(asking(offer.ticket))
    stream.plan(plan(name)).send(*small())
    assert len(stream.finish()) == 1


@pytest.fixture(scope="module")
def hasty() -> Iterator[RunningServer]:
    with running_server(module="tests.integration.hasty_server") as server:
        yield server


def test_who_says_nothing_is_sent_away_in_time(hasty: RunningServer) -> None:
    with Client(hasty.address) as client, RawStream(client) as stream, RawStream(client) as idle:
        offer, unused = stream.offer(), idle.offer()
        silent, begun, shown = (
            socket.create_connection(("127.0.0.1", offer.port), SECONDS) for _ in range(3)
        )
        with silent, begun, shown:
            begun.sendall(GREETING + offer.ticket[:31])
            shown.sendall(GREETING + unused.ticket)
            assert receive_exactly(shown, 1) == ACCEPTED
            began = time.monotonic()
            assert receive_rest(silent) == receive_rest(begun) == receive_rest(shown) == b""
            assert 0.7 * CLAIM_TIMEOUT_S < time.monotonic() - began < CLAIM_TIMEOUT_S + 3
        assert stream.knock(GREETING + offer.ticket, offer.port) == b"", "the ticket has expired"


def test_a_ticket_that_nobody_shows_ends_its_stream(hasty: RunningServer) -> None:
    with Client(hasty.address) as client, RawStream(client) as stream:
        stream.say(asking(stream.offer().ticket))
        began = time.monotonic()
        with expect_refusal() as why:
            next(stream.call)
        assert (why.reason, why.fields) == ("STREAM_PROTOCOL", [TICKET])
        assert 0.7 * CLAIM_TIMEOUT_S < time.monotonic() - began < CLAIM_TIMEOUT_S + 3


def test_a_ticket_may_be_shown_after_the_stream_has_gone_over(hasty: RunningServer) -> None:
    with Client(hasty.address) as client, RawStream(client) as stream:
        offer = stream.offer()
        stream.say(asking(offer.ticket))
        time.sleep(0.2)
        assert stream.knock(GREETING + offer.ticket, offer.port) == ACCEPTED
        stream.plan(plan(client.create(VALUES).name)).send(*small())
        assert len(stream.finish()) == 1


def test_an_expired_ticket_is_followed_by_steps_over_the_call(hasty: RunningServer) -> None:
    with Client(hasty.address) as client, RawStream(client) as stream:
        stream.offer()
        time.sleep(CLAIM_TIMEOUT_S + 0.2)
        stream.plan(plan(client.create(VALUES).name)).say(*small())
        assert stream.read_answer().result.step == 1


def test_only_so_many_may_be_strangers(hasty: RunningServer) -> None:
    """Those beyond the limit are closed at once; when the others have disconnected, new ones are accepted."""
    with Client(hasty.address) as client, RawStream(client) as stream, contextlib.ExitStack() as stack:
        offer = stream.offer()
        knock = partial(socket.create_connection, ("127.0.0.1", offer.port), SECONDS)
        silent = [stack.enter_context(knock()) for _ in range(MAX_UNAUTHENTICATED_CONNECTIONS)]
        time.sleep(0.2)
        with knock() as beyond:
            began = time.monotonic()
            assert receive_rest(beyond) == b""
            assert time.monotonic() - began < 0.5 * CLAIM_TIMEOUT_S
        assert {receive_rest(one) for one in silent} == {b""}
        with RawStream(client) as later:
            later.go_over().plan(plan(client.create(VALUES).name)).send(*small())
            assert len(later.finish()) == 1
