"""File descriptors of shared memory: bounded, counted, and released when idle."""

from __future__ import annotations

import json
import resource
import time
import urllib.error
import urllib.request

import numpy as np

from optserve.v1 import session_service_pb2 as pb
from optserve.v1 import tensor_pb2
from tests.integration.client import Client, expect_refusal
from tests.support.server import run_to_end, running_server
from tests.support.shared_memory import map_memory
from tests.support.watching import descriptors_of, wait_until

START = {"w": np.arange(6, dtype=np.float32).reshape(2, 3), "b": np.ones(5)}


def share(client, name, **fields):
    return client.sessions.ShareMemory(pb.ShareMemoryRequest(name=name, **fields), timeout=20)


def step(client, name, region):
    step = pb.StepStreamRequest(step=pb.StepStart(gradient_id=1))
    (answer,) = client.stream(pb.StepPlan(session=name, region=region), [step])
    return answer


class TestDescriptors:
    """Descriptors that shared memory holds: few, for a limited time, and within the limit."""

    def page(self, server, path):
        (told,) = [line for line in server.log() if line["message"] == "listening"]
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{told['metrics_port']}{path}", timeout=20) as page:
                return page.status, page.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()

    def count(self, server):
        """As the metrics have it."""
        found = [
            line.split()[1]
            for line in self.page(server, "/metrics")[1].splitlines()
            if line.startswith("optserve_shared_memory_descriptors ")
        ]
        return int(float(found[0]))

    def test_a_client_costs_one_and_a_session_one(self):
        pull = pb.PullOptions(wire_dtype=tensor_pb2.DATA_TYPE_FLOAT16)
        with running_server(metrics_port=0) as server, Client(server.address) as client:
            name = client.create(START).name
            step(client, name, share(client, name).region)
            self.count(server)
            before = descriptors_of(server.process.pid)
            with (
                map_memory(share(client, name, pull=pull)),
                map_memory(share(client, name, pull=pb.PullOptions())),
            ):
                # Two connections and the session's parameters; one region was not fetched yet.
                wait_until(lambda: descriptors_of(server.process.pid) <= before + 3)
                assert self.count(server) == 4
                assert step(client, name, share(client, name).region).result.step == 2

    def test_they_are_released_when_idle(self):
        flags = {"shared_memory_idle_seconds": 1, "metrics_port": 0}
        with running_server("numpy", **flags) as server, Client(server.address) as client:
            name = client.create(START).name
            before = descriptors_of(server.process.pid)
            answer = share(client, name, pull=pb.PullOptions())
            with map_memory(answer) as (gradients, _):
                gradients[...] = 0
                assert step(client, name, answer.region).result.step == 1
                wait_until(lambda: self.count(server) == 0)
                wait_until(lambda: descriptors_of(server.process.pid) <= before)
                with expect_refusal() as told:
                    step(client, name, answer.region)
            assert told.reason == "REGION_NOT_FOUND"
            # The parameters stay where they are, and can be shared again.
            assert (client.pull(name)["w"] == START["w"]).all()
            with map_memory(share(client, name, pull=pb.PullOptions())) as (_, parameters):
                assert parameters.any()

    def test_a_stream_keeps_its_region(self):
        with (
            running_server("numpy", shared_memory_idle_seconds=1) as server,
            Client(server.address) as client,
        ):
            name = client.create(START).name
            answer = share(client, name)

            def steps():
                for number in range(1, 4):
                    yield pb.StepStreamRequest(step=pb.StepStart(gradient_id=number))
                    time.sleep(1.6)

            with map_memory(answer):
                results = [
                    message.result.step
                    for message in client.stream(pb.StepPlan(session=name, region=answer.region), steps())
                ]
            assert results == [1, 2, 3]

    def test_no_more_than_they_may_be(self):
        flags = {"max_shared_memory_descriptors": 5, "metrics_port": 0}
        with running_server("numpy", **flags) as server, Client(server.address) as client:
            name = client.create(START).name
            assert self.page(server, "/readyz")[0] == 200
            with map_memory(share(client, name)), map_memory(share(client, name)):
                with expect_refusal() as told:
                    share(client, name)
                status, text = self.page(server, "/readyz")
                assert (status, json.loads(text)["troubles"]) == (
                    503,
                    ["shared memory holds 2 of at most 5 file descriptors"],
                )
            assert (told.reason, told.metadata) == (
                "LIMIT_EXCEEDED",
                {"limit": "max_shared_memory_descriptors", "value": "5"},
            )
            wait_until(lambda: self.page(server, "/readyz")[0] == 200)

    def test_no_more_than_the_process_may_open(self):
        _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        soft = min(hard, 1 << 20) if hard != resource.RLIM_INFINITY else 1 << 20
        ended = run_to_end(f"--max-shared-memory-descriptors={soft}")
        assert ended.returncode == 2
        assert ended.stderr == (
            f"optserve-server: max_shared_memory_descriptors is {soft}, but must be at most {soft // 2}: 50%"
            f" of the {soft} file descriptors that the process may open (RLIMIT_NOFILE)\n"
        )
