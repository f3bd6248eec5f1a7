"""Memory shared with a real server: by hand, as the contract describes it."""

from __future__ import annotations

import fcntl
import mmap
import os
import subprocess
import sys

import grpc
import numpy as np
import pytest

from optserve.v1 import session_pb2, tensor_pb2
from optserve.v1 import session_service_pb2 as pb
from tests.integration.client import Client, expect_refusal, plan_message, step_messages
from tests.integration.raw_stream import RawStream
from tests.support.server import running_server
from tests.support.shared_memory import claim, count_held_by, in_dev_shm, map_memory
from tests.support.watching import descriptors_of, wait_until

START = {"w": np.arange(6, dtype=np.float32).reshape(2, 3), "b": np.ones(5)}
OTHER_USER = 65534


@pytest.fixture
def name(client):
    return client.create(START).name


def share(client, name, **fields):
    return client.sessions.ShareMemory(pb.ShareMemoryRequest(name=name, **fields), timeout=20)


def step(client, name, region, gradient_id=1, sequence=0, **plan):
    """One step on the gradient in memory, in a stream of its own."""
    messages = step_messages(b"", gradient_id=gradient_id, sequence=sequence)
    (answer,) = client.stream(pb.StepPlan(session=name, region=region, **plan), messages)
    return answer


def array(block, entry):
    kinds = {
        tensor_pb2.DATA_TYPE_FLOAT16: np.float16,
        tensor_pb2.DATA_TYPE_FLOAT32: np.float32,
        tensor_pb2.DATA_TYPE_FLOAT64: np.float64,
    }
    dtype = np.dtype(kinds[entry.dtype])
    stop = entry.byte_offset + int(np.prod(entry.shape)) * dtype.itemsize
    return block[entry.byte_offset : stop].view(dtype).reshape(tuple(entry.shape))


def arrays(block, part):
    return {entry.name: array(block, entry) for entry in part.layout}


class TestInMemory:
    def test_a_step_moves_the_parameters_where_the_client_reads_them(self, client, name):
        answer = share(client, name, pull=pb.PullOptions())
        assert answer.parameters.live
        with map_memory(answer) as (gradients, parameters):
            places, values = arrays(gradients, answer.gradients), arrays(parameters, answer.parameters)
            assert {name: value.tolist() for name, value in values.items()} == {
                name: value.tolist() for name, value in START.items()
            }
            for place in places.values():
                place[...] = 2
            told = step(client, name, answer.region, pull=pb.PullOptions())
            assert told.result.step == 1
            assert told.parameters_step == 1
            assert not told.HasField("chunk")
            assert parameters[:16].view(np.uint64).tolist() == [told.parameters_change] * 2
            for key, value in values.items():
                np.testing.assert_array_equal(value, START[key] - 1)
            np.testing.assert_array_equal(client.pull(name)["w"], START["w"] - 1)

    def test_values_in_another_type_or_of_another_point_are_copied_there(self, client):
        spec = session_pb2.SessionSpec()
        spec.optimizer.sgd.learning_rate = 0.5
        spec.weight_average.decay = 0.5
        name = client.create(START, spec).name
        pull = pb.PullOptions(
            point=session_pb2.PARAMETER_POINT_AVERAGE, wire_dtype=tensor_pb2.DATA_TYPE_FLOAT16, tensors=["b"]
        )
        answer = share(client, name, pull=pull)
        assert not answer.parameters.live
        with map_memory(answer) as (gradients, parameters):
            for place in arrays(gradients, answer.gradients).values():
                place[...] = 2
            step(client, name, answer.region, pull=pull)
            (value,) = arrays(parameters, answer.parameters).values()
            assert value.dtype == np.float16
            np.testing.assert_array_equal(value, client.pull(name, point=pull.point)["b"])

    def test_parameters_are_written_only_for_a_plan_that_pulls_them(self, client, name):
        answer = share(client, name, pull=pb.PullOptions(wire_dtype=tensor_pb2.DATA_TYPE_FLOAT16))
        with map_memory(answer) as (gradients, parameters):
            gradients[...] = 0
            before = parameters.tobytes()
            told = step(client, name, answer.region)
            assert (told.parameters_step, told.parameters_change, told.HasField("chunk")) == (0, 0, False)
            assert parameters.tobytes() == before
            pull = pb.PullOptions(wire_dtype=tensor_pb2.DATA_TYPE_FLOAT16)
            assert step(client, name, answer.region, 2, pull=pull).parameters_step == 2
            assert parameters.tobytes() != before

    def test_the_answer_to_a_plan_has_no_layouts(self, client, name):
        answer = share(client, name, pull=pb.PullOptions())
        with map_memory(answer):
            plan = plan_message(name, region=answer.region, pull=pb.PullOptions(), worker="a")
            (planned,) = client.exchange([plan])
        assert planned.planned == pb.StepPlanned(step=0, next_sequence=1)

    def test_gradients_of_some_tensors_in_half_precision(self, client, name):
        half = tensor_pb2.DATA_TYPE_FLOAT16
        answer = share(client, name, tensors=["w"], gradient_dtype=half)
        with map_memory(answer) as (gradients,):
            assert gradients.size == 12
            arrays(gradients, answer.gradients)["w"][...] = 4
            step(client, name, answer.region)
        np.testing.assert_array_equal(client.pull(name)["w"], START["w"] - 2)
        np.testing.assert_array_equal(client.pull(name)["b"], START["b"])


class TestExactlyOnce:
    def test_a_repeated_step_is_told_by_its_gradients_number(self, client, name):
        answer = share(client, name)
        with map_memory(answer) as (gradients,):
            for place in arrays(gradients, answer.gradients).values():
                place[...] = 2
            first = step(client, name, answer.region, 7, worker="a", sequence=1)
            gradients[...] = 0
            again = step(client, name, answer.region, 7, worker="a", sequence=1)
            assert (first.result.replayed, again.result.replayed) == (False, True)
            with expect_refusal() as told:
                step(client, name, answer.region, 8, worker="a", sequence=1)
            assert told.reason == "SEQUENCE_REUSED"
        messages = step_messages(bytes(6 * 4 + 5 * 8), gradient_id=7, sequence=1)
        (sent,) = client.stream(pb.StepPlan(session=name, worker="a"), messages)
        assert sent.result.replayed
        assert client.get(name).step == 1

    def test_a_gradient_that_is_not_finite_changes_nothing(self, client, name):
        answer = share(client, name)
        with map_memory(answer) as (gradients,):
            arrays(gradients, answer.gradients)["b"][3] = np.nan
            with expect_refusal() as told:
                step(client, name, answer.region)
            assert (told.reason, told.metadata["tensor"]) == ("NON_FINITE_GRADIENT", "b")
            np.testing.assert_array_equal(client.pull(name)["b"], START["b"])
            gradients[...] = 0
            assert step(client, name, answer.region).result.step == 1


class TestPlans:
    """A plan with a region that goes, or whose session changes, while its stream is idle."""

    @pytest.fixture
    def stream(self, client):
        with RawStream(client) as stream:
            yield stream

    def test_the_client_lets_go_of_the_memory(self, client, server, name, stream):
        answer, before = share(client, name), count_held_by(server.process.pid)
        with map_memory(answer):
            stream.plan(plan_message(name, region=answer.region))
            stream.say(*step_messages(b"", gradient_id=1))
            assert stream.read_answer().result.step == 1
        wait_until(lambda: count_held_by(server.process.pid) < before)
        stream.say(*step_messages(b"", gradient_id=2))
        with expect_refusal() as told:
            stream.read_answer()
        assert (told.code, told.reason) == (grpc.StatusCode.FAILED_PRECONDITION, "REGION_NOT_FOUND")
        assert told.fields == ["plan.region"]
        assert client.get(name).step == 1

    def test_the_session_is_updated(self, client, name, stream):
        answer = share(client, name, pull=pb.PullOptions())
        with map_memory(answer) as (gradients, parameters):
            stream.plan(plan_message(name, region=answer.region, pull=pb.PullOptions(), worker="a"))
            for place in arrays(gradients, answer.gradients).values():
                place[...] = 2
            spec = session_pb2.SessionSpec()
            spec.optimizer.sgd.learning_rate = 0.25
            client.sessions.UpdateSession(pb.UpdateSessionRequest(name=name, spec=spec), timeout=20)
            stream.say(*step_messages(b"", gradient_id=1, sequence=1))
            assert stream.read_answer().result.step == 1
            np.testing.assert_array_equal(arrays(parameters, answer.parameters)["w"], START["w"] - 0.5)

    def test_the_session_is_deleted(self, client, name, stream):
        answer = share(client, name)
        with map_memory(answer):
            stream.plan(plan_message(name, region=answer.region))
            client.sessions.DeleteSession(pb.DeleteSessionRequest(name=name), timeout=20)
            stream.say(*step_messages(b"", gradient_id=1))
            with expect_refusal() as told:
                stream.read_answer()
        assert (told.reason, told.fields) == ("SESSION_NOT_FOUND", ["plan.session"])

    def test_a_stream_goes_from_memory_to_chunks_and_back(self, client, name, stream):
        answer = share(client, name)
        with map_memory(answer) as (gradients,):
            gradients[...] = 0
            for turn in range(1, 4):
                stream.plan(plan_message(name, region=answer.region))
                stream.say(*step_messages(b"", gradient_id=turn))
                assert stream.read_answer().result.step == 2 * turn - 1
                stream.plan(plan_message(name))
                stream.say(*step_messages(bytes(6 * 4 + 5 * 8)))
                assert stream.read_answer().result.step == 2 * turn


class TestRefusals:
    @pytest.mark.parametrize(
        ("fields", "reason", "field"),
        [
            ({"region": "0" * 64}, "REGION_NOT_FOUND", "plan.region"),
            ({"region": "../../etc/passwd"}, "REGION_NOT_FOUND", "plan.region"),
            ({"gradient_id": 0}, "FIELD_REQUIRED", "step.gradient_id"),
            ({"tensors": ["w"]}, "CONFLICTING_FIELDS", "plan.tensors"),
            ({"gradient_dtype": 3}, "CONFLICTING_FIELDS", "plan.gradient_dtype"),
            ({"sparse_tensors": ["w"]}, "CONFLICTING_FIELDS", "plan.sparse_tensors"),
            ({"pull": pb.PullOptions()}, "CONFLICTING_FIELDS", "plan.pull"),
        ],
    )
    def test_of_a_step(self, client, name, fields, reason, field):
        answer = share(client, name)
        with map_memory(answer), expect_refusal() as told:
            step(client, name, **({"region": answer.region} | fields))
        assert (told.reason, told.fields) == (reason, [field])

    @pytest.mark.parametrize(
        ("messages", "reason", "field"),
        [
            (step_messages(b"", byte_count=64, gradient_id=1), "BYTE_LENGTH_MISMATCH", "step.byte_count"),
            (
                [pb.StepStreamRequest(step=pb.StepStart(gradient_id=1), chunk=tensor_pb2.Chunk(data=b"1"))],
                "STREAM_PROTOCOL",
                "chunk",
            ),
        ],
    )
    def test_of_bytes_beside_memory(self, client, name, messages, reason, field):
        answer = share(client, name)
        with map_memory(answer), expect_refusal() as told:
            client.stream(pb.StepPlan(session=name, region=answer.region), messages)
        assert (told.reason, told.fields) == (reason, [field])
        assert client.get(name).step == 0

    def test_of_another_sessions_region(self, client, name):
        answer = share(client, name)
        other = client.create(START).name
        with map_memory(answer), expect_refusal() as told:
            step(client, other, answer.region)
        assert (told.reason, told.code) == ("REGION_NOT_FOUND", grpc.StatusCode.FAILED_PRECONDITION)

    @pytest.mark.parametrize(
        ("fields", "reason", "field"),
        [
            ({"tensors": ["x"]}, "UNKNOWN_TENSOR", "tensors[0]"),
            ({"tensors": ["w", "w"]}, "DUPLICATE_TENSOR", "tensors[1]"),
            ({"gradient_dtype": tensor_pb2.DATA_TYPE_INT32}, "DTYPE_MISMATCH", "gradient_dtype"),
            ({"pull": pb.PullOptions(tensors=["x"])}, "UNKNOWN_TENSOR", "pull.tensors[0]"),
            ({"pull": pb.PullOptions(wire_dtype=6)}, "DTYPE_MISMATCH", "pull.wire_dtype"),
            (
                {"pull": pb.PullOptions(point=session_pb2.PARAMETER_POINT_AVERAGE)},
                "POINT_UNAVAILABLE",
                "pull.point",
            ),
        ],
    )
    def test_of_memory(self, client, server, name, fields, reason, field):
        before = count_held_by(server.process.pid)
        with expect_refusal() as told:
            share(client, name, **fields)
        assert (told.reason, told.fields) == (reason, [field])
        assert count_held_by(server.process.pid) <= before

    def test_where_the_server_was_told_not_to(self):
        with running_server("numpy", shared_memory="no") as server, Client(server.address) as client:
            with expect_refusal() as told:
                share(client, client.create(START).name)
            assert told.reason == "SHARED_MEMORY_UNAVAILABLE"

    def test_of_more_bytes_than_the_server_may_hold(self):
        with running_server("numpy", max_memory_bytes=900_000) as server, Client(server.address) as client:
            name = client.create({"w": np.zeros(50_000, np.float32)}).name
            double = tensor_pb2.DATA_TYPE_FLOAT64
            with expect_refusal() as told:
                share(client, name, gradient_dtype=double, pull=pb.PullOptions(wire_dtype=double))
            assert (told.reason, told.metadata["limit"]) == ("LIMIT_EXCEEDED", "max_memory_bytes")
            assert len(share(client, name, gradient_dtype=double).region) == 64


class TestHandover:
    def test_names_cannot_be_guessed_and_are_good_once(self, client, name):
        first, second = share(client, name), share(client, name)
        assert len(first.region) == 64
        assert len(set(first.region) | set(second.region)) > 8
        assert first.region != second.region
        one, descriptors = claim(first.socket, first.region)
        two, none = claim(first.socket, first.region)
        three, nothing = claim(first.socket, "/etc/passwd")
        assert (len(descriptors), none, nothing) == (1, [], [])
        for end in (one, two, three):
            end.close()
        os.close(descriptors[0])

    def test_nobody_can_shorten_lengthen_or_unseal_it_or_write_parameters(self, client, name):
        answer = share(client, name, pull=pb.PullOptions())
        connection, (gradients, parameters) = claim(answer.socket, answer.region)
        for descriptor in (gradients, parameters):
            length = os.fstat(descriptor).st_size
            for other in (0, length - 1, length + 1):
                with pytest.raises(PermissionError):
                    os.ftruncate(descriptor, other)
            with pytest.raises(PermissionError):
                fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, fcntl.F_SEAL_WRITE)
        with pytest.raises(PermissionError):
            os.pwrite(parameters, b"x", 0)
        with pytest.raises(PermissionError):
            mmap.mmap(parameters, answer.parameters.byte_count)
        again = os.open(f"/proc/self/fd/{parameters}", os.O_RDWR)
        with pytest.raises(PermissionError):
            mmap.mmap(again, answer.parameters.byte_count)
        for descriptor in (gradients, parameters, again):
            os.close(descriptor)
        assert step(client, name, answer.region).result.step == 1
        connection.close()

    if os.geteuid() == 0:

        def test_another_users_process_is_turned_away(self, client, name):
            answer = share(client, name)
            text = (
                "import os, socket, sys\n"
                "os.setuid(int(sys.argv[3]))\n"
                "c = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)\n"
                "c.connect('\\0' + sys.argv[1])\n"
                "try: c.send(sys.argv[2].encode()); print(socket.recv_fds(c, 1, 2)[:2])\n"
                "except (BrokenPipeError, ConnectionResetError): print((b'', []))\n"
            )
            command = [sys.executable, "-I", "-c", text, answer.socket, answer.region]
            for user, told in ((OTHER_USER, "(b'', [])"), (0, "(b'\\x01', [")):
                done = subprocess.run([*command, str(user)], capture_output=True, text=True, timeout=20)
                assert done.stdout.startswith(told), done


class TestNothingIsLeft:
    @pytest.fixture
    def alone(self):
        """A server of this test alone, and what it holds before anything is shared."""
        files = in_dev_shm()
        with running_server("numpy") as server, Client(server.address) as client:
            name = client.create(START).name
            yield server, client, name, descriptors_of(server.process.pid)
        assert in_dev_shm() == files

    def test_when_the_client_lets_go(self, alone):
        server, client, name, before = alone
        for _ in range(20):
            with map_memory(share(client, name)):
                assert count_held_by(server.process.pid) > 0
        wait_until(lambda: count_held_by(server.process.pid) == 0)
        wait_until(lambda: descriptors_of(server.process.pid) <= before)

    def test_when_the_session_is_deleted(self, alone):
        server, client, name, before = alone
        answer = share(client, name, pull=pb.PullOptions())
        with map_memory(answer) as (gradients, parameters):
            client.sessions.DeleteSession(pb.DeleteSessionRequest(name=name))
            wait_until(lambda: count_held_by(server.process.pid) == 0)
            wait_until(lambda: descriptors_of(server.process.pid) <= before)
            gradients[...] = 1
            assert parameters.size == answer.parameters.byte_count

    def test_when_the_client_is_killed(self, alone):
        server, client, name, before = alone
        answer = share(client, name)
        text = (
            "import sys, time\n"
            "from tests.support.shared_memory import claim\n"
            "kept = claim(sys.argv[1], sys.argv[2]); print(len(kept[1]), flush=True); time.sleep(60)\n"
        )
        command = [sys.executable, "-c", text, answer.socket, answer.region]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            assert process.stdout.readline() == "1\n"
            assert step(client, name, answer.region).result.step == 1
            process.kill()
        wait_until(lambda: count_held_by(server.process.pid) == 0)
        wait_until(lambda: descriptors_of(server.process.pid) <= before)
        with expect_refusal() as told:
            step(client, name, answer.region)
        assert told.reason == "REGION_NOT_FOUND"

    def test_when_the_server_is_killed(self):
        files, before = in_dev_shm(), count_held_by(os.getpid())
        with running_server("numpy") as server, Client(server.address) as client:
            answer = share(client, client.create(START).name)
            with map_memory(answer) as (gradients,):
                server.process.kill()
                server.process.wait(20)
                gradients[...] = 3
                assert gradients.sum() == 3 * gradients.size
                assert in_dev_shm() == files
            del gradients
            assert count_held_by(os.getpid()) <= before

    def test_when_the_server_ends(self, alone):
        server, client, name, _ = alone
        with map_memory(share(client, name)) as (gradients,):
            assert server.stop() == 0
            assert gradients.size == 6 * 4 + 5 * 8
