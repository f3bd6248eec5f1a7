"""A campaign: hostile calls in numbers, an honest client among them, and what became of the server."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

import grpc
import numpy as np
from grpc import aio

from tests.fuzz.hostile import SENTINEL, HostileCall, any_call
from tests.fuzz.requests import SESSIONS, create
from tests.integration.client import Client, sgd
from tests.support.server import RunningServer

IN_FLIGHT = 24
"""Hostile calls at once."""

SECONDS = 10.0
"""How long the server may take to answer any of them."""

EXPECTED = {
    grpc.StatusCode.OK,
    grpc.StatusCode.INVALID_ARGUMENT,
    grpc.StatusCode.NOT_FOUND,
    grpc.StatusCode.ALREADY_EXISTS,
    grpc.StatusCode.FAILED_PRECONDITION,
    grpc.StatusCode.ABORTED,
    grpc.StatusCode.RESOURCE_EXHAUSTED,
}

SENDING_FAILED = "Internal error from Core"

INTERNAL_TEXT = re.compile(
    r"Traceback|File \"|\.py\b|Exception|Error\(|object at 0x|site-packages|/usr/|/home/|/root/|numpy|numba"
    r"|google\.protobuf|DecodeError|KeyError|AttributeError|TypeError|ValueError|AssertionError"
)
"""What no status may tell."""


@dataclass
class Findings:
    """What a campaign found.

    Attributes:
        messages: how many were sent.
        codes: answers by kind and code.
        wrong: descriptions of answers that may not be.
        memory: resident bytes of the server after a fifth of the calls, and at the end.
        steps: honest steps taken meanwhile.
    """

    messages: int = 0
    codes: Counter[tuple[str, str]] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)
    memory: tuple[int, int] = (0, 0)
    steps: int = 0


def resident(server: RunningServer) -> int:
    """Resident bytes of the server."""
    pages = Path(f"/proc/{server.process.pid}/statm").read_text(encoding="ascii").split()[1]
    return int(pages) * os.sysconf("SC_PAGE_SIZE")


async def run(server: RunningServer, messages: int, seed: int) -> Findings:
    """Sends at least so many hostile messages, and takes honest steps meanwhile."""
    found, random = Findings(), Random(seed)
    with Client(server.address) as client:
        honest = Honest(client)
        options = [("grpc.max_send_message_length", -1)]
        async with aio.insecure_channel(server.address, options) as channel:
            warm = 0
            while found.messages < messages:
                batch = [any_call(random) for _ in range(200)]
                await _all(channel, batch, found)
                await _revive(channel, random)
                found.steps += sum(honest.step() for _ in range(5))
                if not warm and found.messages >= messages // 5:
                    warm = resident(server)
        found.memory = (warm, resident(server))
        found.wrong += honest.differences()
        for line in server.log():
            if line["level"] in ("error", "critical"):
                found.wrong.append(f"logged: {line['message']} {line.get('traceback', '')}")
    return found


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


async def _all(channel: aio.Channel, calls: list[HostileCall], found: Findings) -> None:
    room = asyncio.Semaphore(IN_FLIGHT)

    async def one(call: HostileCall) -> None:
        async with room:
            await _make(channel, call, found)

    await asyncio.gather(*(one(call) for call in calls))


async def _make(channel: aio.Channel, call: HostileCall, found: Findings) -> None:
    async def sent() -> AsyncIterator[bytes]:
        for message in call.messages:
            found.messages += 1
            yield message
            if call.pause:
                await asyncio.sleep(call.pause)

    watching = call.method == SESSIONS + "WatchSession"
    going = channel.stream_stream(call.method)(sent(), timeout=0.2 if watching else SECONDS)
    if call.cancelled_after is not None:
        await asyncio.sleep(call.cancelled_after)
        going.cancel()
    with contextlib.suppress(aio.AioRpcError, asyncio.CancelledError):
        async for _ in going:
            pass
    code, text = await going.code(), await going.details()
    if text == SENDING_FAILED:
        # This client's own word where the server had ended the stream while it was still sending.
        found.codes[call.kind, "ended while sending"] += 1
        return
    found.codes[call.kind, code.name] += 1
    allowed = set(EXPECTED)
    if call.cancelled_after is not None:
        allowed.add(grpc.StatusCode.CANCELLED)
    if watching:
        allowed.add(grpc.StatusCode.DEADLINE_EXCEEDED)
    if call.method.endswith("NoSuchMethod"):
        allowed.add(grpc.StatusCode.UNIMPLEMENTED)
    told = f"{text} {await going.trailing_metadata() if code in EXPECTED else ''}"
    if code not in allowed or INTERNAL_TEXT.search(told):
        found.wrong.append(f"{call.kind} to {call.method}: {code.name} {told} for {call.messages!r:.2000}")


async def _revive(channel: aio.Channel, random: Random) -> None:
    """Makes victims again that were deleted."""
    for _ in range(2):
        request = create(random)
        request.ClearField("request_id")
        with contextlib.suppress(aio.AioRpcError):
            await channel.unary_unary(SESSIONS + "CreateSession")(
                request.SerializeToString(), timeout=SECONDS
            )
