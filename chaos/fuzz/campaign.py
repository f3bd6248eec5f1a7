"""A campaign: many hostile calls, an honest client among them, and the state of the server after it."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections.abc import AsyncIterator, Awaitable
from random import Random
from typing import Any, Self

import grpc
import numpy as np
from google.protobuf.message import Message
from grpc import aio

from chaos.fuzz.connections import Door, any_visit, patient
from chaos.fuzz.findings import EXPECTED, SECONDS, SENDING_FAILED, Findings
from chaos.fuzz.hostile import MAY_WAIT, SENTINEL, HostileCall, any_call
from chaos.fuzz.requests import IMPORTED, SESSIONS, create
from chaos.hostile_peers import hostile_peers
from optserve.v1 import session_service_pb2 as pb
from tests.integration.client import Client, sgd, step_messages
from tests.integration.raw_stream import RawStream
from tests.support.server import RunningServer
from tests.support.watching import descriptors_of, resident

PEERS = 4
"""Hostile peers."""

IN_FLIGHT = 24
"""Hostile callers at once."""

LONGEST_CAMPAIGN = 24 * 3600.0
"""Bound, in seconds, on the honest client's stream."""

PAUSE_S = 0.02
"""Pause between two steps of the honest client's stream."""

CALLS, VISITS = 160, 40
"""Hostile calls between two looks at the honest client, and hostile users of data connections."""


async def run(server: RunningServer, messages: int, seed: int) -> Findings:
    """Sends at least so many hostile messages, and takes honest steps meanwhile.

    Hostile peers attack the transport at the same time.
    """
    found, random = Findings(), Random(seed)
    options = [("grpc.max_send_message_length", -1)]
    with (
        Client(server.address) as client,
        HonestStream(client, server.address) as stream,
        contextlib.ExitStack() as attack,
    ):
        found.attacks = attack.enter_context(hostile_peers(server.address, PEERS, seed, SENTINEL))
        honest, before = Honest(client), descriptors_of(server.process.pid)
        async with aio.insecure_channel(server.address, options) as channel:
            door = Door(channel, *stream.data_address, found)
            patience = asyncio.create_task(patient(door, random))
            over = threading.Event()
            stepping = asyncio.create_task(asyncio.to_thread(stream.step_until, over))
            warm = 0
            while found.messages < messages and not stepping.done():
                await _all(door, random, found)
                await _revive(channel, random)
                await _use_imported(channel, found)
                found.steps += sum(honest.step() for _ in range(5))
                if not warm and found.messages >= messages // 5:
                    warm = resident(server.process.pid)
            over.set()
            await stepping
            await asyncio.to_thread(attack.close)
            patience.cancel()  # which a long campaign is not in time for
            with contextlib.suppress(asyncio.CancelledError):
                await patience
        found.memory = (warm, resident(server.process.pid))
        found.descriptors = (before, await _await_descriptor_count(server, before))
        found.steps, found.over_data = found.steps + stream.taken, stream.taken
        found.slowest = stream.slowest
        found.wrong += honest.differences()
        for line in server.log():
            if line["level"] in ("error", "critical"):
                found.wrong.append(f"logged: {line['message']} {line.get('traceback', '')}")
    return found


async def _await_descriptor_count(server: RunningServer, most: int) -> int:
    """How many descriptors there are once the server has noticed who is gone."""
    for _ in range(200):
        if descriptors_of(server.process.pid) <= most:
            break
        await asyncio.sleep(0.1)
    return descriptors_of(server.process.pid)


class Honest:
    """A client whose session must come out as if it had been alone."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._model = np.linspace(-1, 1, 16, dtype=np.float32)
        self._random = np.random.default_rng(1)
        self._taken = 0
        client.create({"w": self._model}, sgd(0.125), session_id=SENTINEL.removeprefix("sessions/"))

    def step(self) -> int:
        """Takes one step, exactly once; returns how many were taken."""
        gradient = self._random.standard_normal(16).astype(np.float32)
        self._taken += 1
        result = self._client.step(SENTINEL, {"w": gradient}, worker="honest", sequence=self._taken).result
        assert result.step == self._taken
        self._model = self._model - np.float32(0.125) * gradient
        return 1

    def differences(self) -> list[str]:
        """What differs from the model, bit by bit."""
        values = self._client.pull(SENTINEL)["w"]
        same = values.tobytes() == self._model.tobytes()
        return [] if same else ["the sentinel's parameters differ from the model's"]


class HonestStream:
    """A client that steps over a data connection, while others misuse theirs."""

    def __init__(self, client: Client, address: str) -> None:
        self._model = np.linspace(-1, 1, 16, dtype=np.float32)
        self._random = np.random.default_rng(2)
        client.create({"w": self._model}, sgd(0.125), session_id="guarded")
        host = address.partition(":")[0]
        self._stream = RawStream(client, host, LONGEST_CAMPAIGN)
        self.data_address = host, self._stream.offer().port
        plan = pb.StepPlan(session="sessions/guarded", pull=pb.PullOptions())
        self._stream.go_over().plan(pb.StepStreamRequest(plan=plan))
        self.taken, self.slowest = 0, 0.0

    def step_until(self, over: threading.Event) -> None:
        """Takes steps, and compares each with the model's, bit by bit.

        They go on while others wait: a stream that is silent for long is ended.
        """
        while not over.wait(PAUSE_S):
            gradient, began = self._random.standard_normal(16).astype(np.float32), time.monotonic()
            self._stream.send(*step_messages(gradient.tobytes()))
            answer = self._stream.answer()
            assert answer is not None, "only its client may end a valid data connection"
            self.slowest = max(self.slowest, time.monotonic() - began)
            self.taken += 1
            self._model = self._model - np.float32(0.125) * gradient
            response = pb.StepStreamResponse.FromString(answer)
            assert response.result.step == self.taken
            assert response.chunk.data == self._model.tobytes()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._stream.__exit__(None, None, None)


async def _all(door: Door, random: Random, found: Findings) -> None:
    """Some hundred calls and visits, in any order."""
    room = asyncio.Semaphore(IN_FLIGHT)
    works: list[Awaitable[None]] = [_make(door.channel, any_call(random), found) for _ in range(CALLS)]
    works += [any_visit(random)(door, random) for _ in range(VISITS)]
    random.shuffle(works)

    async def one(work: Awaitable[None]) -> None:
        async with room:
            try:
                await work
            except aio.AioRpcError as error:
                # A visit whose call was cancelled before its server had seen it.
                is_cancelled = error.code() is grpc.StatusCode.CANCELLED
                if not is_cancelled and SENDING_FAILED not in str(error.details()):
                    raise
                found.shed += 1

    await asyncio.gather(*(one(work) for work in works))


async def _make(channel: aio.Channel, call: HostileCall, found: Findings) -> None:
    async def send() -> AsyncIterator[bytes]:
        for message in call.messages:
            found.messages += 1
            yield message
            if call.pause:
                await asyncio.sleep(call.pause)

    may_wait = call.method in MAY_WAIT
    watching = call.method == SESSIONS + "WatchSession"
    method: Any = channel.stream_stream(call.method)
    going = method(send(), timeout=0.2 if watching else 2.0 if may_wait else SECONDS)
    if call.cancelled_after is not None:
        await asyncio.sleep(call.cancelled_after)
        going.cancel()
    with contextlib.suppress(aio.AioRpcError, asyncio.CancelledError):
        async for _ in going:
            pass
    code, text = await going.code(), await going.details()
    also = set[grpc.StatusCode]()
    if call.cancelled_after is not None:
        also.add(grpc.StatusCode.CANCELLED)
    if may_wait:
        also.add(grpc.StatusCode.DEADLINE_EXCEEDED)
    if call.method.endswith("NoSuchMethod"):
        also.add(grpc.StatusCode.UNIMPLEMENTED)
    told = f"{text} {await going.trailing_metadata() if code in EXPECTED or code.name == 'CANCELLED' else ''}"
    found.judge(call.kind, code, told, also, f"{call.messages!r:.2000} to {call.method}")


async def _use_imported(channel: aio.Channel, found: Findings) -> None:
    """Lists all sessions, then uses and deletes what hostile imports made: none may be half a session."""
    names = [f"sessions/{session_id}" for session_id in IMPORTED]
    asked: list[tuple[str, Message]] = [("ListSessions", pb.ListSessionsRequest(page_size=1000))]
    for name in names:
        asked += [
            ("GetSession", pb.GetSessionRequest(name=name)),
            ("PullParameters", pb.PullParametersRequest(name=name)),
            ("ExportSnapshot", pb.ExportSnapshotRequest(name=name)),
            ("DeleteSession", pb.DeleteSessionRequest(name=name)),
        ]
    for method, message in asked:
        call: Any = channel.unary_stream(SESSIONS + method)
        going = call(message.SerializeToString(), timeout=SECONDS)
        with contextlib.suppress(aio.AioRpcError):
            async for _ in going:
                pass
        found.judge("imported", await going.code(), await going.details(), set(), f"{message} to {method}")


async def _revive(channel: aio.Channel, random: Random) -> None:
    """Makes victims again that were deleted."""
    for _ in range(2):
        request = create(random)
        request.ClearField("request_id")
        method: Any = channel.unary_unary(SESSIONS + "CreateSession")
        with contextlib.suppress(aio.AioRpcError):
            await method(request.SerializeToString(), timeout=SECONDS)
