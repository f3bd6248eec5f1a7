"""Loops of clients over graceful restarts of their server: ``python -m`` runs them in a process of their own.

It prints what the server answered calls with that it did not take, by reason, as JSON.
"""

from __future__ import annotations

import contextlib
import json
import sys
import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import grpc
import numpy as np

import optserve
from tests.integration.client import Client, refusal
from tests.support.server import running_server
from tests.support.watching import wait_until

VALUES = {"w": np.ones(100, np.float32)}
RESTARTS, LOOPS = 3, 6


def train(address: str, name: str, over: threading.Event, streamed: bool) -> int:
    """Steps with the library until it is over; returns the number of steps."""
    taken = 0
    with optserve.connect(address) as client:
        session = client.session(name)
        with session.stream() if streamed else contextlib.nullcontext(session) as stepper:
            while not over.is_set():
                taken += 1
                assert stepper.step(VALUES).step == taken
    return taken


def call(address: str, name: str, over: threading.Event) -> Counter[str]:
    """Steps by calls of its own; returns the errors that the server answered by reason, or else code."""
    told: Counter[str] = Counter()
    with Client(address) as client:
        sequence = 1
        while not over.is_set():
            try:
                assert client.step(name, VALUES, worker="w", sequence=sequence).result.step == sequence
                sequence += 1
            except grpc.RpcError as error:
                met = refusal(error)
                told[met.reason or error.code().name] += 1
                over.wait(met.retry_seconds or 0.05)
    return told


def await_steps(address: str, name: str, count: int) -> None:
    """Waits until a session has taken ``count`` more steps."""
    with Client(address) as client:
        before = client.get(name).step
        wait_until(lambda: client.get(name).step >= before + count)


def main(data_dir: str, port: str) -> Counter[str]:
    """Trains over some restarts.

    Args:
        data_dir: of the servers.
        port: of the servers.

    Returns:
        The errors of calls by reason, or else code.
    """
    over = threading.Event()
    with ThreadPoolExecutor(3 * LOOPS) as pool, contextlib.ExitStack() as stack:
        stack.callback(over.set)  # before the pool waits for its loops, also when something fails
        for turn in range(RESTARTS + 1):
            with running_server(port=port, data_dir=data_dir) as server:
                if turn == 0:
                    with Client(server.address) as client:
                        names = [client.create(VALUES).name for _ in range(3 * LOOPS)]
                    loops = [
                        pool.submit(train, server.address, name, over, streamed=index % 2 == 0)
                        for index, name in enumerate(names[: 2 * LOOPS])
                    ]
                    calls = [pool.submit(call, server.address, name, over) for name in names[2 * LOOPS :]]
                await_steps(server.address, names[0], 5)
                if turn < RESTARTS:
                    assert server.stop() == 0
                    continue
                over.set()
                assert min(loop.result(60) for loop in loops) > 0
                return sum((one.result(60) for one in calls), Counter[str]())
    raise AssertionError


if __name__ == "__main__":
    print(json.dumps(main(*sys.argv[1:])))
