"""Simulated federated clients: each takes part in rounds, or drops out of one and says nothing."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Iterator
from dataclasses import dataclass, field

import grpc
import numpy as np
import numpy.typing as npt
from grpc import aio

from optserve.v1 import session_pb2, tensor_pb2, worker_service_pb2
from optserve.v1 import session_service_pb2 as pb
from optserve.v1.session_service_pb2_grpc import SessionServiceStub
from optserve.v1.worker_service_pb2_grpc import WorkerServiceStub

CLIENTS_PER_CHANNEL = 100
CALL_SECONDS = 60.0
TRAINING = 0.0, 0.8
"""Shares of the deadline that training takes, at least and at most."""

MAX_LATE_SECONDS = 1.0
"""Seconds after its deadline in which a round closes."""

TOLERANCE = 1e-5
"""How far the parameters may be from the mean in float64: sums are in float32."""

Array = npt.NDArray[np.float32]


@dataclass
class Round:
    """What was observed of one round.

    Attributes:
        contributed: clients whose changes were accumulated, with their example counts.
        too_late: clients whose changes came after the end.
        first_sent: when the first change was sent, by the monotonic clock.
        closed: when the first client had the next parameters.
        received: when the last client had them.
    """

    contributed: dict[int, int] = field(default_factory=dict)
    too_late: int = 0
    first_sent: float = float("inf")
    closed: float = float("inf")
    received: float = 0.0


@dataclass
class Findings:
    """What was observed.

    Attributes:
        clients: how many there were.
        deadline: of a round, in seconds.
        rounds: the rounds.
        farthest: difference of the parameters to the mean of each round in float64, at most.
    """

    clients: int
    deadline: float
    rounds: list[Round] = field(default_factory=list)
    farthest: float = 0.0

    @property
    def latest(self) -> float:
        """Seconds from a deadline until the round was closed, at most."""
        return max(one.closed - one.first_sent for one in self.rounds) - self.deadline

    def lines(self) -> Iterator[str]:
        """The findings for people."""
        counts = [len(one.contributed) for one in self.rounds]
        yield f"{self.clients:9}  clients, a round every {self.deadline:g} s"
        yield f"{len(self.rounds):9}  rounds"
        yield f"{min(counts):9}  clients in the smallest round, {max(counts)} in the largest"
        yield f"{sum(one.too_late for one in self.rounds):9}  changes too late"
        yield f"{self.latest:9.3f}  seconds after its deadline until a round was closed, at most"
        last = max(one.received - one.closed for one in self.rounds)
        yield f"{last:9.3f}  seconds from then until the last client had the parameters, at most"
        yield f"{self.farthest:9.1e}  difference of the parameters to the means in float64, at most"


class Client:
    """One simulated client.

    Args:
        number: its number, which its changes and example counts depend on.
        channel: to the server.
        session: resource name of the session.
    """

    def __init__(self, number: int, channel: aio.Channel, session: str) -> None:
        self._sessions, self._workers = SessionServiceStub(channel), WorkerServiceStub(channel)
        self.number, self.worker, self._session = number, f"client-{number}", session
        self._epoch = self._sequence = 0

    async def join(self, lease_seconds: float) -> None:
        """Becomes a member."""
        request = worker_service_pb2.JoinSessionRequest(
            session=self._session, worker=self.worker, lease_seconds=lease_seconds
        )
        joined = await self._workers.JoinSession(request, timeout=CALL_SECONDS)
        self._epoch, self._sequence = joined.epoch, joined.next_sequence

    async def contribute(self, change: Array, examples: int, step: int) -> bool:
        """Sends a change of the parameters of a step; False if it came too late."""
        options = pb.StepOptions(
            worker=self.worker,
            worker_epoch=self._epoch,
            sequence=self._sequence,
            example_count=examples,
            parameters_step=step,
        )
        request = pb.StepRequest(name=self._session, options=options, gradients=[_tensor(change)])
        try:
            await self._sessions.Step(request, timeout=CALL_SECONDS)
        except grpc.RpcError as error:
            if error.code() is not grpc.StatusCode.ABORTED:
                raise
            return False
        self._sequence += 1
        return True

    async def next_round(self, step: int) -> Array:
        """Waits until the round that began at a step is closed; returns the parameters."""
        request = pb.PullParametersRequest(name=self._session, newer_than_step=step)
        data = b""
        async for message in self._sessions.PullParameters(request, timeout=CALL_SECONDS):
            data += message.chunk.data
        return np.frombuffer(data, np.float32)


class Campaign:
    """Rounds of one session.

    Args:
        address: of the server.
        clients: how many there are.
        size: how many parameters.
        deadline: of a round, in seconds.
        dropout: share of the clients that drop out of a round.
        seed: of what is drawn.
    """

    def __init__(
        self, address: str, *, clients: int, size: int, deadline: float, dropout: float, seed: int
    ) -> None:
        self._address, self._size, self._dropout = address, size, dropout
        self._rng = random.Random(seed)
        self._directions = np.random.default_rng(seed).standard_normal((8, size), np.float32)
        self.found = Findings(clients, deadline)

    async def run(self, rounds: int) -> Findings:
        """Trains for some rounds, and compares each with the mean of what was accumulated."""
        count = -(-self.found.clients // CLIENTS_PER_CHANNEL)
        # A connection for each: channels to one address would share it.
        options = [("grpc.use_local_subchannel_pool", 1)]
        channels = [aio.insecure_channel(self._address, options) for _ in range(count)]
        try:
            session = await self._create(channels[0])
            clients = [
                Client(number, channels[number % count], session) for number in range(self.found.clients)
            ]
            await asyncio.gather(*(one.join(100 * self.found.deadline) for one in clients))
            values = np.zeros(self._size, np.float32)
            for step in range(rounds):
                values = await self._train(clients, step, values)
        finally:
            for channel in channels:
                await channel.close()
        return self.found

    async def _create(self, channel: aio.Channel) -> str:
        spec = session_pb2.SessionSpec()
        spec.optimizer.sgd.learning_rate = 1.0
        spec.coordination.rounds.buffer_size = self.found.clients
        spec.coordination.rounds.deadline_seconds = self.found.deadline
        request = pb.CreateSessionRequest(spec=spec)
        request.parameters.add(name="w", value=_tensor(np.zeros(self._size, np.float32)).tensor)
        created = await SessionServiceStub(channel).CreateSession(request, timeout=CALL_SECONDS)
        return created.session.name

    async def _train(self, clients: list[Client], step: int, before: Array) -> Array:
        """One round; returns the parameters after it."""
        taking_part = self._rng.sample(clients, round((1 - self._dropout) * len(clients)))
        current = Round()
        self.found.rounds.append(current)
        tasks = [self._take_part(one, step, current, self._rng.uniform(*TRAINING)) for one in taking_part]
        others = asyncio.gather(*tasks)
        values = await clients[0].next_round(step)
        await others
        expected = self._mean(current)
        self.found.farthest = max(self.found.farthest, float(np.max(np.abs(values - before - expected))))
        assert self.found.farthest < TOLERANCE, f"round {step} is not the mean of what was accumulated"
        return values

    async def _take_part(self, client: Client, step: int, current: Round, share: float) -> None:
        await asyncio.sleep(share * self.found.deadline)
        examples = 1 + client.number % 17
        current.first_sent = min(current.first_sent, time.monotonic())
        if await client.contribute(self._change(client.number), examples, step):
            current.contributed[client.number] = examples
        else:
            current.too_late += 1
        await client.next_round(step)
        current.closed = min(current.closed, time.monotonic())
        current.received = max(current.received, time.monotonic())

    def _change(self, number: int) -> Array:
        change: Array = self._directions[number % len(self._directions)] * np.float32(0.01 * (number % 7))
        return change

    def _mean(self, current: Round) -> npt.NDArray[np.float64]:
        total = np.zeros(self._size, np.float64)
        for number, examples in current.contributed.items():
            total += examples * self._change(number).astype(np.float64)
        return total / sum(current.contributed.values())


def _tensor(array: Array) -> tensor_pb2.NamedTensor:
    made = tensor_pb2.NamedTensor(name="w")
    made.tensor.dtype, made.tensor.data = tensor_pb2.DATA_TYPE_FLOAT32, array.tobytes()
    made.tensor.shape.extend(array.shape)
    return made
