"""Steps in shared memory, which the Python client uses automatically, and its fallback."""

from __future__ import annotations

import contextlib
import gc
import logging
import threading

import numpy as np
import pytest

import optserve
from optserve import ParameterPoint, Pull, errors
from optserve._engine.shared_memory import SharedMemory
from optserve._transport.locality import is_local
from optserve.v1 import session_service_pb2 as wire
from tests.support.server import running_server
from tests.support.shared_memory import count_held_by, in_dev_shm
from tests.support.watching import wait_until

N = 70_000
START = {"w": np.linspace(-1, 1, N, dtype=np.float32).reshape(7, -1), "b": np.ones(3)}


def gradients(count, seed=0):
    random = np.random.default_rng(seed)
    return [
        {"w": random.standard_normal((7, N // 7)).astype(np.float32), "b": random.standard_normal(3)}
        for _ in range(count)
    ]


@pytest.fixture
def adam(client):
    optimizer = optserve.optimizers.Adam(convention=optserve.TORCH)

    def make():
        return client.create_session(START, optimizer, gradient=optserve.Gradient(l2=0.01))

    return make


def same(results, others):
    for one, other in zip(results, others, strict=True):
        assert (one.step, one.gradient_norm, one.outcome) == (other.step, other.gradient_norm, other.outcome)
        assert one.parameters.step == other.parameters.step
        assert one.parameters.keys() == other.parameters.keys()
        for name, value in one.parameters.items():
            assert value.dtype == other.parameters[name].dtype
            assert value.tobytes() == other.parameters[name].tobytes()


class TestSameBits:
    @pytest.mark.parametrize("in_place", [False, True])
    @pytest.mark.parametrize(
        "pull",
        [
            True,
            False,
            Pull(tensors=["b"]),
            Pull(wire_dtype=np.float16),
            ParameterPoint.PARAMETERS,
        ],
        ids=str,
    )
    def test_as_over_the_wire(self, adam, server, pull, in_place):
        sent, shared = adam(), adam()
        with (
            sent.stream(pull=pull, shared_memory=False) as one,
            shared.stream(pull=pull, in_place=in_place) as two,
        ):
            for gradient in gradients(3):
                same([two.step(gradient)], [one.step(gradient)])
            assert count_held_by(server.process.pid) > 0
        assert sent.pull()["w"].tobytes() == shared.pull()["w"].tobytes()

    @pytest.mark.parametrize("dtype", [None, np.float16, np.float64], ids=str)
    def test_of_gradients_written_where_they_are_used(self, adam, dtype):
        sent, shared = adam(), adam()
        with (
            sent.stream(pull=True, wire_dtype=dtype, shared_memory=False) as one,
            shared.stream(pull=True, wire_dtype=dtype) as two,
        ):
            for gradient in gradients(3):
                for name, value in gradient.items():
                    two.gradients[name][...] = value
                same([two.step(two.gradients)], [one.step(gradient)])

    def test_of_steps_that_are_not_waited_for(self, adam):
        sent, shared = adam(), adam()
        with sent.stream(pull=True, shared_memory=False) as one, shared.stream(pull=True) as two:
            same(list(two.steps(gradients(10))), list(one.steps(gradients(10))))
            pending = [two.submit(gradient) for gradient in gradients(3)]
            alone = two.step(gradients(1)[0])
            same([*(step.result() for step in pending), alone], one.steps([*gradients(3), *gradients(1)]))

    def test_of_steps_of_some_tensors_and_of_rows(self, adam):
        sent, shared = adam(), adam()
        part = [{"b": np.ones(3)}, {"w": START["w"]}, {"b": np.ones(3)}, *gradients(1)]
        with sent.stream(pull=True, shared_memory=False) as one, shared.stream(pull=True) as two:
            for gradient in part:
                same([two.step(gradient)], [one.step(gradient)])

    def test_into_the_callers_arrays(self, adam):
        into = {name: np.zeros_like(value) for name, value in START.items()}
        with adam().stream(pull=True) as stream:
            result = stream.step(gradients(1)[0], into=into)
        assert result.parameters["w"] is into["w"]
        assert np.any(into["w"] != 0)


class TestViews:
    def test_of_parameters_are_read_only_and_show_the_next_step(self, adam):
        with adam().stream(pull=True, in_place=True) as stream:
            first = stream.step(gradients(1)[0]).parameters["w"]
            before = first.copy()
            second = stream.step(gradients(1)[0]).parameters["w"]
            assert not first.flags.writeable
            assert np.shares_memory(first, second)
            assert np.any(first != before)
        assert np.all(np.isfinite(first))  # the memory lives as long as it is looked at

    def test_copies_are_the_callers(self, adam):
        with adam().stream(pull=True) as stream:
            first = stream.step(gradients(1)[0]).parameters["w"]
            before = first.copy()
            stream.step(gradients(1)[0])
        np.testing.assert_array_equal(first, before)
        first[...] = 0

    def test_several_workers_never_see_half_a_step(self, server, client):
        optimizer = optserve.optimizers.SGD(learning_rate=1.0)
        session = client.create_session({"w": np.zeros(300_000, np.float32)}, optimizer)
        failures = []

        def work():
            gradient = {"w": np.ones(300_000, np.float32)}
            with (
                optserve.connect(server.address, timeout=20) as own,
                own.session(session.name).stream(pull=True) as stream,
            ):
                for _ in range(30):
                    values = stream.step(gradient).parameters
                    if not np.all(values["w"] == -values.step):
                        failures.append(values)

        threads = [threading.Thread(target=work) for _ in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        assert not failures
        assert session.get().step == 90


class TestMisbehaviour:
    def test_a_gradient_that_changes_during_its_step_harms_its_own_session_alone(self, client, server):
        optimizer = optserve.optimizers.SGD(learning_rate=1.0)
        mine, others = (client.create_session({"w": np.zeros(400_000)}, optimizer) for _ in range(2))
        done = threading.Event()

        def meddle(place):
            while not done.is_set():
                place[...] = np.nan
                place[...] = 1.0

        with mine.stream(pull=True) as stream:
            place = stream.gradients["w"]
            thread = threading.Thread(target=meddle, args=(place,))
            thread.start()
            for _ in range(60):
                with contextlib.suppress(errors.InvalidArgument):  # not finite, this time
                    stream.step(stream.gradients)
            done.set()
            thread.join(20)
        assert server.process.poll() is None
        np.testing.assert_array_equal(others.step({"w": np.ones(400_000)}, pull=True).parameters["w"], -1)

    def test_a_refused_gradient_changes_nothing(self, adam):
        session = adam()
        with session.stream(pull=True) as stream:
            stream.gradients["b"][1] = np.inf
            with pytest.raises(errors.InvalidArgument) as told:
                stream.step(stream.gradients)
            assert told.value.reason is errors.Reason.NON_FINITE_GRADIENT
            stream.gradients["b"][1] = 0
            assert stream.step(stream.gradients).step == 1


class TestExactlyOnce:
    def test_a_step_whose_answer_was_lost_is_applied_once(self, adam, proxy):
        session = adam()
        with (
            optserve.connect(proxy.address, timeout=20) as client,
            client.session(session.name).stream(pull=True) as stream,
        ):
            stream.submit(gradients(1)[0]).result()
            proxy.answers.clear()
            pending = stream.submit(gradients(1)[0])
            wait_until(lambda: session.get().step == 2)
            proxy.cut()
            proxy.answers.set()
            result = pending.result()
            assert (result.step, result.replayed) == (2, True)
        assert proxy.cuts == 1
        assert session.get().step == 2

    def test_memory_that_the_server_forgot_is_done_without(self, adam, server):
        sent, shared = adam(), adam()
        with sent.stream(pull=True, shared_memory=False) as one, shared.stream(pull=True) as two:
            same([two.step(gradients(1)[0])], [one.step(gradients(1)[0])])
            held = count_held_by(server.process.pid)
            for memory in two._engine._regions._memories.values():
                memory.close()
            wait_until(lambda: count_held_by(server.process.pid) < held)
            for gradient in gradients(3, seed=1):
                same([two.step(gradient)], [one.step(gradient)])
        assert shared.get().step == 4


class TestClose:
    def test_a_closed_client_keeps_nothing_on_the_server(self, server):
        client = optserve.connect(server.address, timeout=20)
        session = client.create_session(START, optserve.optimizers.SGD())
        before = count_held_by(server.process.pid)
        stream = session.stream(shared_memory=True)
        stream.step(gradients(1)[0])
        held = count_held_by(server.process.pid)
        assert held > before - 2
        client.close()
        wait_until(lambda: count_held_by(server.process.pid) < held)
        stream.close()


class TestFallback:
    def test_where_the_server_shares_none(self, caplog):
        with (
            running_server("numpy", shared_memory="no") as server,
            optserve.connect(server.address, timeout=20) as client,
            caplog.at_level(logging.INFO, "optserve"),
        ):
            session = client.create_session(START, optserve.optimizers.SGD())
            for _ in range(2):
                with session.stream(pull=True, in_place=True) as stream:
                    stream.gradients["b"][...] = 1
                    stream.step(stream.gradients)
                    stream.step(gradients(1)[0])
            assert session.get().step == 4
        lines = [record for record in caplog.records if record.name == "optserve"]
        assert len(lines) == 1
        assert "shared" in lines[0].getMessage()

    def test_where_nobody_wants_it(self, server, client, caplog):
        with caplog.at_level(logging.INFO, "optserve"):
            before = count_held_by(server.process.pid)
            with optserve.connect(server.address, shared_memory=False, timeout=20) as own:
                session = own.create_session(START, optserve.optimizers.SGD())
                with session.stream() as stream:
                    stream.step(gradients(1)[0])
                    assert count_held_by(server.process.pid) <= before
        assert not [record for record in caplog.records if record.name == "optserve"]

    def test_where_the_host_is_another_one(self):
        """The abstract socket of another host's server is not here, whatever its name."""
        answer = wire.ShareMemoryResponse(region="0" * 64, socket="optserve-elsewhere")
        with pytest.raises(ConnectionRefusedError):
            SharedMemory(answer)

    @pytest.mark.parametrize(
        ("target", "local"),
        [
            ("127.0.0.1:50051", True),
            ("localhost:50051", True),
            ("localhost", True),
            ("[::1]:50051", True),
            ("ipv4:127.0.0.2:1", True),
            ("ipv6:[::1]:1", True),
            ("dns:///localhost:50051", True),
            ("unix:/run/optserve", True),
            ("unix-abstract:optserve", True),
            ("10.0.0.1:50051", False),
            ("[2001:db8::1]:50051", False),
            ("ipv4:127.0.0.1:1,10.0.0.1:1", False),
            ("optserve.example:50051", False),
            ("localhost.example:50051", False),
        ],
    )
    def test_what_counts_as_this_host(self, target, local):
        assert is_local(target) is local


class TestUnixSocket:
    def test_is_taken_for_this_host(self, tmp_path):
        path = tmp_path / "socket"
        files = in_dev_shm()
        with (
            running_server("numpy", unix_socket=path) as server,
            optserve.connect(f"unix:{path}", timeout=20) as client,
        ):
            session = client.create_session(START, optserve.optimizers.SGD())
            with session.stream(pull=True) as stream:
                stream.step(gradients(1)[0])
                assert count_held_by(server.process.pid) > 0
            session.delete()
            wait_until(lambda: count_held_by(server.process.pid) == 0)
        gc.collect()
        assert in_dev_shm() == files
