"""Channels over gRPC and over data connections behave alike, and clean up after themselves."""

from __future__ import annotations

import gc
import os
import signal
import threading
import time
from concurrent import futures

import grpc
import numpy as np
import pytest

import optserve
from optserve import Retry, errors
from optserve._transport.grpc_channel import GrpcChannel
from tests.integration.python_client.conftest import call_of
from tests.support.server import running_server

ONE = {"w": np.ones(3)}
METHOD = "/calls.Test/Talk"


def talk(requests, context):
    """Answers each message with its length; some words end the call."""
    sent = dict(context.invocation_metadata())
    for message in requests:
        if message == b"refuse":
            context.set_trailing_metadata((("token", sent["token"]), ("bytes-bin", b"\x00\xff")))
            context.abort(grpc.StatusCode.ABORTED, "nein, größer")
        if message == b"leave":
            return
        if message != b"hush":
            yield str(len(message)).encode()


@pytest.fixture(scope="module")
def address():
    server = grpc.server(futures.ThreadPoolExecutor(2))
    handler = grpc.stream_stream_rpc_method_handler(talk)
    server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler("calls.Test", {"Talk": handler})])
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    yield f"127.0.0.1:{port}"
    server.stop(None).wait()


@pytest.fixture
def call(address):
    with grpc.insecure_channel(address) as channel:
        call = GrpcChannel(channel.stream_stream(METHOD), (("token", "secret"),))
        yield call
        call.cancel()


def test_questions_are_answered(call):
    for size in (1, 1_000_000, 7):
        call.send([(m,) for m in [b"x" * size]])
        assert call.receive() == str(size).encode()
    call.send([(m,) for m in [b"hush"] * 5 + [b"four"]])
    assert call.receive() == b"4"
    call.send([(m,) for m in [b"a", b"bb"]])
    assert [call.receive(), call.receive()] == [b"1", b"2"]
    call.finish()


@pytest.mark.parametrize("before", [[], [b"hush"] * 3])
def test_an_error_comes_with_all_it_carries(call, before):
    call.send([(m,) for m in [*before, b"refuse", *before]])
    with pytest.raises(grpc.RpcError) as caught:
        call.receive()
    assert caught.value.code() is grpc.StatusCode.ABORTED
    assert caught.value.details() == "nein, größer"
    trailers = dict(caught.value.trailing_metadata())
    assert trailers["token"] == "secret"
    assert trailers["bytes-bin"] == b"\x00\xff"
    with pytest.raises(grpc.RpcError):
        call.receive()


def test_the_end_of_a_call_is_no_error(call):
    call.send([(m,) for m in [b"leave"]])
    assert call.receive() is None


def test_a_cancelled_wait_ends(call):
    call.send([(m,) for m in [b"hush"]])
    timer = threading.Timer(0.1, call.cancel)
    timer.start()
    with pytest.raises(grpc.RpcError) as caught:
        call.receive()
    timer.join()
    assert caught.value.code() is grpc.StatusCode.CANCELLED


def test_errors_of_a_stream_are_the_same(way, session):
    with session.stream() as stream:
        stream.step(ONE)
        with pytest.raises(errors.InvalidArgument) as caught:
            stream.step({"w": np.full(3, np.nan)})
        assert caught.value.reason is errors.Reason.NON_FINITE_GRADIENT
        assert caught.value.field
        assert caught.value.request_id
        with pytest.raises(errors.StepMismatch) as mismatch:
            stream.step(ONE, expected_step=7)
        assert mismatch.value.current_step == 1
        assert stream.step(ONE).step == 2
        assert isinstance(call_of(stream), way)


def test_lone_and_pipelined_steps_take_turns(way, session):
    with session.stream(pull=True) as stream:
        for i in range(4):
            assert stream.step(ONE).step == 4 * i + 1
            pending = [stream.submit(ONE), stream.submit(ONE)]
            assert stream.step(ONE).step == 4 * i + 4, "behind those that are under way"
            assert [p.result().step for p in pending] == [4 * i + 2, 4 * i + 3]


def test_an_interrupted_wait_leaves_the_stream_whole(way, session, distant, proxy):
    # A shell that runs something in the background lets it ignore interrupts.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        interrupt_three_steps(way, session, distant, proxy)
    finally:
        signal.signal(signal.SIGINT, before)


def interrupt_three_steps(way, session, distant, proxy):
    """The same gradient again after an interrupt is the same step."""
    with distant.stream() as stream:
        assert stream.step(ONE).step == 1
        for i in range(3):
            proxy.answers.clear()
            assert i or isinstance(call_of(stream), way)
            timer = threading.Timer(0.1, os.kill, (os.getpid(), signal.SIGINT))
            timer.start()
            with pytest.raises(KeyboardInterrupt):
                stream.step(ONE)
            timer.join()
            proxy.answers.set()
            assert stream.step(ONE).step == i + 2
    assert session.get().step == 4


def test_a_client_closed_by_another_thread_ends_the_wait(way, session, proxy):
    client = optserve.connect(proxy.address, timeout=20)
    stream = client.session(session.name).stream()
    stream.step(ONE)
    proxy.answers.clear()
    with futures.ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(stream.step, ONE)
        time.sleep(0.2)
        client.close()
        with pytest.raises(errors.Cancelled):
            waiting.result(10)
    stream.close()


def test_a_server_that_shuts_down_ends_the_stream(way):
    impatient = Retry(attempts=2, initial=0.01)
    with (
        running_server("numpy") as server,
        optserve.connect(server.address, timeout=10, retry=impatient) as client,
    ):
        session = client.create_session({"w": np.zeros(3)}, optserve.optimizers.SGD())
        stream = session.stream()
        stream.step(ONE)
        assert server.stop() == 0
        with pytest.raises(errors.Unavailable):
            stream.step(ONE)
        stream.close()


def test_a_forgotten_stream_ends_its_call(way, client, session):
    for _ in range(3):
        session.stream().step(ONE)
    gc.collect()
    assert not [e for e in client._connection._closables if e is not session._engine]


def test_a_stream_holds_one_call_at_a_time(way, session):
    with session.stream() as stream:
        stream.step(ONE)
        first = call_of(stream)
        assert isinstance(first, way)
        stream.step(ONE)
        assert call_of(stream) is first
        stream.submit(ONE).result()
        list(stream.steps([ONE] * 20))
        assert call_of(stream) is first
