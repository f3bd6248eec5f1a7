"""How a stream gets its data connection: offers, and tickets that are shown once."""

from __future__ import annotations

import socket

import grpc
import pytest

from tests.integration.client import Client, expect_refusal
from tests.integration.data_connections.conftest import TICKET, plan, small
from tests.integration.raw_stream import (
    ACCEPTED,
    GREETING,
    SECONDS,
    RawStream,
    asking,
    receive_exactly,
    receive_rest,
)
from tests.support.server import RunningServer


def test_offers_say_what_the_contract_says(server: RunningServer, stream: RawStream) -> None:
    offer = stream.offer()
    assert len(offer.ticket) == 32
    assert 0 < offer.port != offer.server_port == int(server.address.rpartition(":")[2])
    assert offer.claim_within.seconds == 10


def test_an_offer_asked_for_twice_is_the_same(stream: RawStream) -> None:
    assert stream.offer() == stream.offer()


def test_no_two_streams_are_offered_one_ticket(client: Client, stream: RawStream) -> None:
    with RawStream(client) as other:
        assert stream.offer().ticket != other.offer().ticket


def test_a_ticket_is_good_for_one_connection(stream: RawStream, name: str) -> None:
    offer = stream.offer()
    assert stream.knock(GREETING + offer.ticket, offer.port) == ACCEPTED
    with socket.create_connection(("127.0.0.1", offer.port), SECONDS) as second:
        second.sendall(GREETING + offer.ticket)
        assert receive_rest(second) == b""
    stream.say(asking(offer.ticket))
    with socket.create_connection(("127.0.0.1", offer.port), SECONDS) as third:
        third.sendall(GREETING + offer.ticket)
        assert receive_rest(third) == b""
    stream.plan(plan(name)).send(*small())
    assert len(stream.finish()) == 1


def test_a_ticket_ends_with_its_stream(client: Client, stream: RawStream) -> None:
    with RawStream(client) as other:
        offer = other.offer()
        with socket.create_connection(("127.0.0.1", offer.port), SECONDS) as waiting:
            waiting.sendall(GREETING + offer.ticket)
            assert receive_exactly(waiting, 1) == ACCEPTED
            other.call.cancel()
            assert receive_rest(waiting) == b"", "a connection that its stream has not claimed is closed"
    assert stream.knock(GREETING + offer.ticket, offer.port) == b""


def test_another_streams_ticket_is_refused(client: Client, stream: RawStream, name: str) -> None:
    with RawStream(client) as other:
        theirs = other.offer()
        assert stream.offer().ticket != theirs.ticket
        assert other.knock(GREETING + theirs.ticket, theirs.port) == ACCEPTED
        stream.say(asking(theirs.ticket))
        with expect_refusal() as why:
            next(stream.call)
        assert (why.code, why.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "STREAM_PROTOCOL")
        assert why.fields == [TICKET]
        other.say(asking(theirs.ticket))
        other.plan(plan(name)).send(*small())
        assert len(other.finish()) == 1, "theirs goes on"


@pytest.mark.parametrize("ticket", [b"x", bytes(32), bytes(1000)], ids=["short", "zeros", "long"])
def test_a_ticket_that_was_never_offered_is_refused(stream: RawStream, ticket: bytes) -> None:
    stream.say(asking(ticket))
    with expect_refusal() as why:
        next(stream.call)
    assert (why.reason, why.fields) == ("STREAM_PROTOCOL", [TICKET])


def test_a_request_for_another_connection_is_refused(stream: RawStream) -> None:
    stream.go_over().send(asking())
    assert stream.answer() is None
    with expect_refusal() as why:
        next(stream.call)
    assert (why.reason, why.fields) == ("STREAM_PROTOCOL", ["data_connection"])


def test_a_request_within_a_step_is_refused(client: Client, stream: RawStream, name: str) -> None:
    stream.go_over().plan(plan(name)).send(small()[0], asking())
    assert stream.answer() is None
    with expect_refusal() as why:
        next(stream.call)
    assert why.reason == "STREAM_PROTOCOL"
    assert client.get(name).step == 0


@pytest.mark.parametrize(
    ("other", "field"), [("plan", "plan"), ("step", "data_connection"), ("chunk", "data_connection")]
)
def test_a_request_stands_alone(client: Client, stream: RawStream, name: str, other: str, field: str) -> None:
    step, chunk = small()
    request = asking()
    request.MergeFrom({"plan": plan(name), "step": step, "chunk": chunk}[other])
    stream.plan(plan(name)).say(request)
    with expect_refusal() as why:
        next(stream.call)
    assert (why.reason, why.fields) == ("STREAM_PROTOCOL", [field])
    assert client.get(name).step == 0
