"""Handles and streams after a fork, and in the hands of several threads."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading

import numpy as np
import pytest

import optserve
from tests.integration.python_client.conftest import ONE

CHILD_TIMEOUT_S = 20

FORK = """
import json, os, signal, sys
import numpy as np
import optserve

address, name, options = sys.argv[1], sys.argv[2], json.loads(sys.argv[3])
one = {"w": np.ones(3)}
client = optserve.connect(address, timeout=15, **options)
session = client.session(name)
stream = session.stream(pull=True)
gradients = stream.gradients
gradients["w"][:] = 1
steps = [session.step(one), stream.step(gradients)]
pending = stream.submit(one)
read, write = os.pipe()
child = os.fork()
if child == 0:
    signal.alarm(20)
    try:
        taken = [session.step(one), stream.step(one)]
        stream.gradients["w"][:] = 1  # in memory of the child's own
        taken.append(stream.step(stream.gradients))
        try:
            pending.result()
            lost = "answered"
        except optserve.errors.Cancelled:
            lost = "cancelled"
        stream.close()
        client.close()
        os.write(write, json.dumps([[r.step, r.worker, r.sequence] for r in taken] + [lost]).encode())
        os._exit(0)
    finally:
        os._exit(1)
os.close(write)
steps += [session.step(one), pending.result(), stream.step(gradients)]
with os.fdopen(read) as answers:
    told = json.load(answers)
status = os.waitpid(child, 0)[1]
steps += [session.step(one), stream.step(one)]
print(json.dumps({"status": status, "child": told[:-1], "pending": told[-1],
                  "parent": [[r.step, r.worker, r.sequence] for r in steps]}))
client.close()
"""


@pytest.mark.parametrize(
    "options",
    [{}, {"shared_memory": False}, {"shared_memory": False, "data_connections": False}],
    ids=["shared memory", "data connection", "gRPC"],
)
def test_a_forked_child_is_another_worker_and_its_parent_goes_on(server, session, options):
    command = [sys.executable, "-c", FORK, server.address, session.name, json.dumps(options)]
    run = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert run.returncode == 0, run.stderr
    told = json.loads(run.stdout)
    assert (told["status"], told["pending"]) == (0, "cancelled")
    workers = {worker for _, worker, _ in told["parent"]}, {worker for _, worker, _ in told["child"]}
    assert [len(some) for some in workers] == [2, 2], "a handle and a stream each"
    assert not workers[0] & workers[1]
    taken = [step for step, *_ in told["parent"] + told["child"]]
    assert sorted(taken) == list(range(1, 11)), "each step was applied, and once"
    assert [sequence for *_, sequence in told["child"]] == [1, 1, 2]
    np.testing.assert_array_equal(session.pull()["w"], np.arange(3.0) - 10)


@pytest.mark.parametrize("by", ["handle", "stream"])
def test_several_threads_share_a_handle_or_a_stream(way, session, by):
    steps, failures = [], []
    with session.stream(pull=True, window=4) as stream:

        def work():
            try:
                for turn in range(25):
                    if by == "handle":
                        result = session.step(ONE, pull=True)
                    elif turn % 2:
                        result = stream.step(ONE)
                    else:
                        result = stream.submit(ONE).result()
                    np.testing.assert_array_equal(result.parameters["w"], np.arange(3.0) - result.step)
                    steps.append(result.step)
            except BaseException as error:
                failures.append(error)

        threads = [threading.Thread(target=work) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
    assert not failures
    assert sorted(steps) == list(range(1, 101))


def test_a_step_does_not_wait_for_another_thread_longer_than_its_timeout(distant, proxy, pool):
    assert distant.step(ONE).step == 1
    proxy.answers.clear()
    slow = pool.submit(distant.step, ONE)
    try:
        while not distant._engine._lock.locked():
            pass
        with pytest.raises(optserve.errors.DeadlineExceeded) as caught:
            distant.step(ONE, timeout=0.2)
        assert caught.value.applied is False
    finally:
        proxy.answers.set()
    assert slow.result(20).step == 2
    assert distant.step(ONE).step == 3


def test_a_closed_handle_of_a_forked_child_leaves_the_parent_s_call_alone(server, session):
    """What a child drops, closes or exits with must not end what its parent uses."""
    with optserve.connect(server.address, timeout=20, shared_memory=False) as client:
        stream = client.session(session.name).stream()
        assert stream.step(ONE).step == 1
        child = os.fork()
        if child == 0:
            signal.alarm(CHILD_TIMEOUT_S)
            stream.close()
            client.close()
            os._exit(0)
        assert os.waitpid(child, 0)[1] == 0
        channel = stream._engine._channel
        assert stream.step(ONE).step == 2
        assert stream._engine._channel is channel
        stream.close()
