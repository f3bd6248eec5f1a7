"""The client and data connections: when it makes them, when it does without, and how they end."""

from __future__ import annotations

import contextlib
import gc
import logging
import os
import random
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

import optserve
from optserve import Retry, connection, data_connection, errors, optimizers
from optserve.data_call import DataCall, QueuedDataCall
from optserve.data_connection import host_and_port
from optserve.direct_call import DirectCall
from optserve.queued_call import QueuedCall
from tests.integration.python_client.conftest import NEAR
from tests.integration.python_client.proxy import running_proxy
from tests.support.certificates import Authority
from tests.support.server import running_server

ONE = {"w": np.ones(3)}
LARGE = 700_003
NOT_HERE = "steps go over gRPC, and not over a connection of their own: "


@pytest.fixture
def said(caplog):
    """What the client's logger says of doing without."""
    caplog.set_level(logging.INFO, "optserve")
    return lambda: [r.getMessage().removeprefix(NOT_HERE) for r in caplog.records if NOT_HERE in r.message]


@pytest.fixture
def address(server):
    host, port = server.address.split(":")
    return host, int(port)


@pytest.fixture
def large(client):
    session = client.create_session({"w": np.zeros(LARGE, np.float32)}, optimizers.Sgd(learning_rate=1.0))
    yield session
    session.delete()


def sent(target, **options):
    """A client whose steps lie in no shared memory."""
    return optserve.connect(target, timeout=20, shared_memory=False, **options)


def call_of(stream):
    return stream._line._call


def steps_go_by(session, kind, behind):
    """Takes lone steps and some that are submitted."""
    with session.stream(pull=True) as stream:
        for _ in range(3):
            begun = stream.step(ONE).step
            assert isinstance(call_of(stream), kind)
        steps = [p.result().step for p in [stream.submit(ONE) for _ in range(5)]]
        assert steps == list(range(begun + 1, begun + 6))
        assert isinstance(call_of(stream), behind)
        return stream.step(ONE)


def test_a_client_makes_them_by_itself(server, session, said):
    with sent(server.address) as client:
        result = steps_go_by(client.session(session.name), DataCall, QueuedDataCall)
    np.testing.assert_array_equal(result.parameters["w"], np.arange(3.0) - 9)
    assert said() == []


def test_a_client_may_be_told_to_make_none(server, session, said):
    with sent(server.address, data_connections=False) as client:
        steps_go_by(client.session(session.name), DirectCall, QueuedCall)
    assert said() == []


@pytest.mark.parametrize("wire_dtype", [None, "bfloat16"])
def test_large_steps_have_the_same_bits(server, client, wire_dtype):
    start = {"w": np.zeros(LARGE, np.float32), "b": np.zeros((3, 5))}
    rng = np.random.default_rng(0)
    gradients = [
        {n: rng.standard_normal(a.shape).astype(a.dtype) for n, a in start.items()} for _ in range(4)
    ]
    taken = []
    for data in (True, False):
        session = client.create_session(start, optimizers.Adam())
        with (
            sent(server.address, data_connections=data) as other,
            other.session(session.name).stream(pull=True, wire_dtype=wire_dtype) as stream,
        ):
            results = [stream.step(gradients[0]), *stream.steps(gradients[1:])]
            assert isinstance(call_of(stream), QueuedDataCall if data else QueuedCall)
        taken.append([{n: a.tobytes() for n, a in r.parameters.items()} for r in results])
        session.delete()
    assert taken[0] == taken[1]


def test_lone_submitted_and_shared_steps_take_turns(server, large):
    """Each kind of step on one stream, and the client's own sum beside them."""
    total = np.zeros(LARGE, np.float32)
    rng = np.random.default_rng(1)

    def fresh():
        nonlocal total
        gradient = rng.integers(-3, 4, LARGE).astype(np.float32)
        total = total - gradient
        return gradient

    with (
        optserve.connect(server.address, timeout=20) as client,
        client.session(large.name).stream(pull=True) as stream,
    ):
        for turn in range(12):
            if turn % 3 == 0:
                place = stream.gradients
                place["w"][...] = fresh()
                result = stream.step(place)
            elif turn % 3 == 1:
                result = [stream.submit({"w": fresh()}) for _ in range(2)][-1].result()
            else:
                result = stream.step({"w": fresh()})
            assert result.parameters["w"].tobytes() == total.tobytes()
    assert large.get().step == 16


# Where there are none


def test_the_server_offers_none(said):
    with running_server(data_port="off") as server, sent(server.address) as client:
        session = client.create_session({"w": np.zeros(3)}, optimizers.Sgd())
        steps_go_by(session, DirectCall, QueuedCall)
        steps_go_by(session, DirectCall, QueuedCall)
    assert said() == ["the server offers none"], "which is said and tried once"


def test_a_mapped_port(address, session, said):
    with running_proxy(address) as mapped, sent(mapped.address) as client:
        steps_go_by(client.session(session.name), DirectCall, QueuedCall)
    assert len(said()) == 1


def test_an_older_server(session, said):
    """It knows no such request, and takes it for a step without a header."""
    with (
        running_server(module="tests.integration.python_client.older_server") as server,
        sent(server.address) as client,
    ):
        made = client.create_session({"w": np.zeros(3)}, optimizers.Sgd())
        steps_go_by(made, DirectCall, QueuedCall)
    assert said() == ["the server knows none"]


def test_tls_has_none(tmp_path, said):
    authority = Authority()
    with running_server(**authority.pair().write(tmp_path)) as server:
        trusted = tmp_path / "authority.pem"
        trusted.write_bytes(authority.pem)
        credentials = optserve.tls.credentials(trusted)
        with sent(server.address, credentials=credentials) as client:
            session = client.create_session({"w": np.zeros(3)}, optimizers.Sgd())
            steps_go_by(session, DirectCall, QueuedCall)
    assert said() == []


def test_a_unix_socket_has_none(tmp_path, said):
    with running_server(unix_socket=tmp_path / "socket"), sent(f"unix:{tmp_path / 'socket'}") as client:
        session = client.create_session({"w": np.zeros(3)}, optimizers.Sgd())
        steps_go_by(session, DirectCall, QueuedCall)
    assert said() == []


def talkative(word):
    """Says a word to everyone, and then listens."""

    def serve(listener, over):
        with contextlib.ExitStack() as stack:
            while not over.is_set():
                with contextlib.suppress(TimeoutError):
                    peer = stack.enter_context(listener.accept()[0])
                    peer.sendall(word)

    return serve


def curt(listener, over):
    """Hangs up on everyone."""
    while not over.is_set():
        with contextlib.suppress(TimeoutError):
            listener.accept()[0].close()


@contextlib.contextmanager
def listening(port, serve):
    """Something at the port of data connections that is no server of ours."""
    over = threading.Event()
    with socket.create_server((NEAR, port)) as listener:
        listener.settimeout(0.05)
        thread = threading.Thread(target=serve, args=(listener, over))
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join(10)


@contextlib.contextmanager
def full(port):
    """A listener whose queue is full, so that further connections get no answer at all."""
    with socket.create_server((NEAR, port), backlog=0), contextlib.ExitStack() as stack:
        for _ in range(4):
            waiting = stack.enter_context(socket.socket())
            waiting.setblocking(False)
            waiting.connect_ex((NEAR, port))
        time.sleep(0.1)
        yield


THERE = {
    "nothing": lambda port: contextlib.nullcontext(),
    "garbage": lambda port: listening(port, talkative(b"HTTP/1.1 400 Bad Request\r\n\r\n")),
    "silence": lambda port: listening(port, talkative(b"")),
    "an end": lambda port: listening(port, curt),
    "no answer": full,
}


@pytest.mark.parametrize("there", THERE)
def test_something_else_is_at_the_port(address, data_port, session, said, there):
    """The call's port leads to the server, and that of data connections does not."""
    with (
        running_proxy(address, (NEAR, address[1])) as proxy,
        THERE[there](data_port),
        sent(proxy.address) as client,
        client.session(session.name).stream() as stream,
    ):
        began = time.monotonic()
        assert stream.step(ONE).step == 1
        assert time.monotonic() - began < data_connection.CONNECT_SECONDS + 1.5
        assert isinstance(call_of(stream), DirectCall)
        assert stream.submit(ONE).result().step == 2
        assert isinstance(call_of(stream), QueuedCall)
    assert len(said()) == 1
    assert session.get().step == 2


def test_submitted_steps_find_something_else_there(address, data_port, session, said):
    with (
        running_proxy(address, (NEAR, address[1])) as proxy,
        THERE["garbage"](data_port),
        sent(proxy.address) as client,
        client.session(session.name).stream() as stream,
    ):
        assert [r.step for r in stream.steps([ONE] * 20)] == list(range(1, 21))
        assert isinstance(call_of(stream), QueuedCall)
    assert len(said()) == 1


def test_what_could_not_be_made_is_tried_again_later(address, data_port, session, said, monkeypatch):
    monkeypatch.setattr(connection, "NO_DATA_SECONDS", (0.3, 10.0))
    with (
        running_proxy(address, (NEAR, address[1])) as proxy,
        sent(proxy.address) as client,
    ):
        distant = client.session(session.name)
        with distant.stream() as stream:
            stream.step(ONE)
            assert isinstance(call_of(stream), DirectCall)
        proxy.forward((address[0], data_port), (NEAR, data_port))
        time.sleep(0.4)
        with distant.stream() as stream:
            stream.step(ONE)
            assert isinstance(call_of(stream), DataCall)
    assert len(said()) == 1
    assert session.get().step == 2


@pytest.mark.parametrize(
    ("target", "expected"),
    [
        ("localhost:50051", ("localhost", 50051)),
        ("10.0.0.1:1", ("10.0.0.1", 1)),
        ("dns:host:7", ("host", 7)),
        ("dns:///host:7", ("host", 7)),
        ("dns://8.8.8.8/host:7", ("host", 7)),
        ("ipv4:1.2.3.4:5", ("1.2.3.4", 5)),
        ("ipv6:[::1]:5", ("::1", 5)),
        ("[::1]:5", ("::1", 5)),
        ("[fe80::1%eth0]:5", ("fe80::1%eth0", 5)),
        ("dns:///[::1]:5", ("::1", 5)),
        ("ipv4:1.2.3.4:5,1.2.3.5:5", None),
        ("ipv6:[::1]:5,[::2]:5", None),
        ("unix:/tmp/socket", None),
        ("unix:///tmp/socket", None),
        ("unix:/tmp/socket:5", None),
        ("unix-abstract:name", None),
        ("xds:///service", None),
        ("xds:///service:5", None),
        ("vsock:2:5", None),
        ("host", None),
        ("host:", None),
        ("host:http", None),
        ("host:٣", None),
        (":5", None),
        ("[]:5", None),
        ("", None),
    ],
)
def test_which_targets_name_a_host_and_a_port(target, expected):
    assert host_and_port(target) == expected


# Lost lines; test_exactly_once.py has more


class Model:
    """What a session is after each step of a history, computed beside it."""

    def __init__(self):
        self.history = [np.arange(3.0)]

    @property
    def step(self):
        return len(self.history) - 1

    def take(self, gradients):
        for gradient in gradients:
            self.history.append(self.history[-1] - gradient)

    def agrees(self, results):
        """A step that was answered before comes with the parameters as they are now."""
        for step, result in enumerate(reversed(results)):
            assert result.step == self.step - step
            assert result.parameters.step == result.step or result.replayed
            np.testing.assert_array_equal(result.parameters["w"], self.history[result.parameters.step])


@pytest.mark.parametrize("seed", range(3))
def test_steps_cut_at_random_are_each_applied_once(session, proxy, seed, monkeypatch):
    """Lone and submitted ones; every cut is some bytes after the one before it, in one direction."""
    monkeypatch.setattr(connection, "NO_DATA_SECONDS", (0.01, 0.01))  # where the cut was in a handshake
    chance, model = random.Random(seed), Model()
    patient = Retry(attempts=30, initial=0.005, maximum=0.05)
    kinds = set()
    with (
        sent(proxy.address, retry=patient) as client,
        client.session(session.name).stream(pull=True) as stream,
    ):
        for turn in range(40):
            if turn % 2:
                direction = chance.choice(("upstream", "downstream"))
                setattr(proxy, f"{direction}_budget", chance.randrange(1, 1500))
            gradients = [float(chance.randrange(-4, 5)) for _ in range(chance.choice((1, 1, 1, 4)))]
            if len(gradients) == 1:
                results = [stream.step({"w": np.full(3, gradients[0])})]
            else:
                results = [p.result() for p in [stream.submit({"w": np.full(3, g)}) for g in gradients]]
            kinds.add(type(call_of(stream)))
            model.take(gradients)
            model.agrees(results)
    assert proxy.cuts > 8
    assert kinds >= {DataCall, QueuedDataCall}
    assert session.get().step == model.step


def test_large_steps_cut_at_random_are_each_applied_once(large, proxy):
    chance, gradient = random.Random(0), {"w": np.ones(LARGE, np.float32)}
    with sent(proxy.address) as client, client.session(large.name).stream(pull=True, window=3) as stream:
        for turn in range(6):
            direction = chance.choice(("upstream", "downstream"))
            setattr(proxy, f"{direction}_budget", chance.randrange(1, 8_000_000))
            last = stream.step(gradient) if turn % 2 else list(stream.steps([gradient] * 3))[-1]
            assert last.parameters["w"].tobytes() == np.full(LARGE, -last.step, np.float32).tobytes()
    assert proxy.cuts >= 3
    assert large.get().step == last.step == 12


@pytest.mark.parametrize("kind", ["lone", "submitted"])
@pytest.mark.parametrize("hole", ["answers", "requests"])
def test_in_a_black_hole_a_deadline_ends_the_wait(session, proxy, kind, hole):
    with sent(proxy.address) as client, client.session(session.name).stream(pull=True) as stream:
        stream.step(ONE) if kind == "lone" else stream.submit(ONE).result()
        getattr(proxy, hole).clear()
        began = time.monotonic()
        pending = None if kind == "lone" else stream.submit(ONE)
        with pytest.raises(errors.DeadlineExceeded):
            stream.step(ONE, timeout=0.3) if pending is None else pending.result(timeout=0.3)
        with pytest.raises(errors.DeadlineExceeded):  # nor does a new line lead anywhere
            stream.step(ONE, timeout=0.3)
        assert time.monotonic() - began < 4
        getattr(proxy, hole).set()
        result = stream.step(ONE)
    assert result.step == session.get().step == 4
    np.testing.assert_array_equal(result.parameters["w"], np.arange(3.0) - 4)


def test_within_a_payload_a_deadline_ends_the_wait(large, proxy):
    """An answer of which only the beginning has come."""
    gradient = {"w": np.ones(LARGE, np.float32)}
    with sent(proxy.address) as client, client.session(large.name).stream(pull=True) as stream:
        for _ in range(3):
            stream.step(gradient)
        assert isinstance(call_of(stream), DataCall)
        proxy.delay = 0.2  # for each block of 64 KiB
        began = time.monotonic()
        with pytest.raises(errors.DeadlineExceeded):
            stream.step(gradient, timeout=1)
        assert time.monotonic() - began < 4
        proxy.delay = 0.0
        assert stream.step(gradient).step == 5
    assert large.get().step == 5


def test_a_deadline_does_not_cost_a_data_connection(session, proxy):
    """It is made anew, once what waits is settled."""
    with sent(proxy.address) as client, client.session(session.name).stream() as stream:
        stream.step(ONE)
        proxy.answers.clear()
        with pytest.raises(errors.DeadlineExceeded):
            stream.step(ONE, timeout=0.3)
        proxy.answers.set()
        stream.flush()
        assert stream.step(ONE).step == 3
        assert isinstance(call_of(stream), DataCall)


# Ends


@pytest.fixture
def pool():
    with ThreadPoolExecutor(1) as pool:
        yield pool


@pytest.mark.parametrize("where", ["small", "large"])
def test_a_client_closed_by_another_thread_ends_the_wait(session, large, proxy, pool, where):
    target = session if where == "small" else large
    gradient = ONE if where == "small" else {"w": np.ones(LARGE, np.float32)}
    client = sent(proxy.address)
    stream = client.session(target.name).stream(pull=True)
    for _ in range(2):
        stream.step(gradient)
    assert isinstance(call_of(stream), DataCall)
    proxy.delay, began = 0.3, time.monotonic()
    waiting = pool.submit(stream.step, gradient)
    time.sleep(0.15 if where == "small" else 1.0)
    client.close()
    with pytest.raises(errors.Cancelled):
        waiting.result(10)
    assert time.monotonic() - began < 5
    stream.close()
    proxy.delay = 0.0


def test_ends_of_all_kinds_after_each_other(server, session):
    """Closing twice, a client before its stream, and a stream that was never used."""
    for _ in range(2):
        client = sent(server.address)
        distant = client.session(session.name)
        distant.stream().close()
        stream = distant.stream()
        stream.step(ONE)
        stream.close()
        stream.close()
        other = distant.stream()
        other.submit(ONE)
        client.close()
        other.close()
        client.close()
        with pytest.raises(RuntimeError):
            stream.step(ONE)


def descriptors():
    return len(os.listdir("/proc/self/fd"))


def few(count, most):
    """Waits until a count has come down."""
    end = time.monotonic() + 10
    while count() > most:
        assert time.monotonic() < end, (count(), most)
        time.sleep(0.02)


def close(stream):
    stream.close()


def leave(stream):
    """With steps under way."""
    for _ in range(3):
        stream.submit(ONE)
    stream.close()


def forget(stream):
    """The caller does not close it."""


@pytest.mark.parametrize("kind", ["lone", "submitted"])
@pytest.mark.parametrize("end", [close, leave, forget])
def test_fifty_streams_leave_neither_threads_nor_descriptors(server, session, kind, end):
    with sent(server.address) as client:
        distant = client.session(session.name)
        before = None
        for turn in range(50):
            stream = distant.stream()
            (stream.step(ONE) if kind == "lone" else stream.submit(ONE).result())
            end(stream)
            del stream
            if turn == 3:
                gc.collect()
                time.sleep(0.3)
                before = descriptors(), threading.active_count()
        gc.collect()
        assert before is not None
        few(descriptors, before[0])
        few(threading.active_count, before[1])


def test_a_server_that_ends_well_is_followed_by_its_next(tmp_path):
    """The same ports, as behind a service's name; the next server knows the session by its disk."""
    with contextlib.ExitStack() as held:
        ports = [held.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(2)]
        port, data_port = (listener.getsockname()[1] for listener in ports)
    settings = {"port": port, "data_port": data_port, "data_dir": tmp_path / "data", "grace_seconds": 5}
    with contextlib.ExitStack() as client_stack:
        with running_server(**settings) as server:
            client = client_stack.enter_context(sent(server.address))
            session = client.create_session({"w": np.zeros(3)}, optimizers.Sgd(learning_rate=1.0))
            stream = client_stack.enter_context(session.stream(pull=True))
            assert stream.step(ONE).step == 1
            server.process.kill()
            server.process.wait(10)
        with running_server(**settings):
            assert stream.step(ONE).step == 2
            assert isinstance(call_of(stream), DataCall)
            stream.close()
