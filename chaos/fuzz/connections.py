"""Hostile users of data connections: unauthenticated, with invalid tickets, and authenticated."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from collections.abc import Awaitable, Callable, Sequence
from random import Random

import grpc
from grpc import aio

from chaos.fuzz.findings import SECONDS, Findings
from chaos.fuzz.frames import FRAMES, TICKET_BYTES, asking, dribble, step_message
from chaos.fuzz.hostile import SENTINEL
from chaos.fuzz.requests import SESSIONS
from optserve._transport.data_connection import ACCEPTED, GREETING
from optserve.v1 import session_service_pb2 as pb

LOST = {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED}
"""Statuses of a call whose data connection was lost."""

CROWD = 300
"""More unauthenticated connections than the server accepts at once."""


class Door:
    """The ports that hostile callers connect to.

    Args:
        channel: to the server.
        host: of the server.
        port: of its data connections.
        found: what is counted and noted.
    """

    def __init__(self, channel: aio.Channel, host: str, port: int, found: Findings) -> None:
        self.channel, self.found = channel, found
        self._address = host, port

    async def connect(self) -> Line:
        """A TCP connection to the data port."""
        return Line(*await asyncio.open_connection(*self._address), self.found)

    async def call(self) -> Guest:
        """A call of StepStream."""
        return Guest(self, self.channel.stream_stream(SESSIONS + "StepStream")(timeout=SECONDS))

    def note(self, kind: str, name: str, right: bool) -> None:
        """Counts the outcome of a connection that gets no status."""
        self.found.codes[kind, name] += 1
        if not right:
            self.found.wrong.append(f"{kind}: {name}")


class Line:
    """A TCP connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, found: Findings) -> None:
        self._reader, self._writer, self._found = reader, writer, found

    async def send(self, pieces: Sequence[bytes], pause: float = 0.0) -> None:
        """Sends pieces, as far as the server takes them."""
        with contextlib.suppress(OSError):
            for piece in pieces:
                self._found.messages += 1
                self._writer.write(piece)
                await self._writer.drain()
                if pause:
                    await asyncio.sleep(pause)

    async def hears(self, seconds: float = SECONDS) -> bytes | None:
        """All that comes until the server closes the connection; None if it does not."""
        heard = b""
        with contextlib.suppress(OSError):
            try:
                async with asyncio.timeout(seconds):
                    while part := await self._reader.read(1 << 16):
                        heard += part
            except TimeoutError:
                return None
        return heard

    async def says(self, ticket: bytes) -> bool:
        """Greets with a ticket; whether the server takes it."""
        await self.send([GREETING + ticket])
        try:
            return await asyncio.wait_for(self._reader.read(1), SECONDS) == ACCEPTED
        except OSError:
            return False

    def half_close(self) -> None:
        """Says that nothing more comes."""
        with contextlib.suppress(OSError):
            self._writer.write_eof()

    def reset(self) -> None:
        """Ends it as a machine does that knows nothing of it."""
        connection = self._writer.get_extra_info("socket")
        with contextlib.suppress(OSError):  # the server was quicker
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._writer.transport.abort()

    def close(self) -> None:
        """Closes it."""
        self._writer.close()


class Guest:
    """A call of StepStream."""

    def __init__(self, door: Door, call: aio.StreamStreamCall[bytes, bytes]) -> None:
        self._door, self._call = door, call

    async def send(self, *messages: bytes) -> None:
        """Sends messages over the call, unless it has ended."""
        for message in messages:
            self._door.found.messages += 1
            with contextlib.suppress(aio.AioRpcError, asyncio.InvalidStateError):
                await self._call.write(message)

    async def ask(self) -> bytes:
        """The ticket that the server offers."""
        await self.send(asking())
        answer = await self._call.read()
        assert isinstance(answer, bytes)
        return pb.StepStreamResponse.FromString(answer).data_connection.ticket

    async def enter(self) -> Line | None:
        """Switches a call to a data connection; None if there are too many unauthenticated ones."""
        line, ticket = await self._door.connect(), await self.ask()
        if not await line.says(ticket):
            line.close()
            return None
        await self.send(asking(ticket))
        return line

    def cancel(self) -> None:
        """Goes away."""
        self._call.cancel()

    async def end(self, kind: str, also: set[grpc.StatusCode], sent: object = "") -> None:
        """Ends the call, unless that has happened, and looks at its status."""
        with contextlib.suppress(aio.AioRpcError, asyncio.InvalidStateError):
            await self._call.done_writing()
        with contextlib.suppress(aio.AioRpcError, asyncio.CancelledError):
            while await self._call.read() is not aio.EOF:
                pass
        code = await self._call.code()
        told = f"{await self._call.details()} {await self._call.trailing_metadata()}"
        self._door.found.judge(kind, code, told, also, repr(sent))


async def stranger(door: Door, random: Random) -> None:
    """Says what no client says, and is shown out without a word."""
    said = random.choice(
        [
            random.randbytes(random.randrange(1, 200)),
            b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
            b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n",
            GREETING + random.randbytes(TICKET_BYTES),
            GREETING + bytes(TICKET_BYTES),
            GREETING[:-1] + b"\0" + random.randbytes(TICKET_BYTES),
        ]
    )
    line = await door.connect()
    await line.send([said])
    heard = await line.hears()
    line.close()
    door.note("stranger", "closed" if heard == b"" else f"heard {heard!r}", heard == b"")


async def half_greeting(door: Door, random: Random) -> None:
    """Begins a greeting, or sends nothing, and disconnects in one of three ways."""
    whole = GREETING + random.randbytes(TICKET_BYTES)
    said = whole[: random.randrange(len(whole))]
    line = await door.connect()
    await line.send([said[i : i + 1] for i in range(len(said))] if random.random() < 0.2 else [said], 0.0)
    await asyncio.sleep(random.choice([0.0, 0.01]))
    way = random.randrange(3)
    if way == 0:
        line.reset()
    elif way == 1:
        line.half_close()
        heard = await line.hears()
        door.note("half greeting", "closed" if heard == b"" else f"heard {heard!r}", heard == b"")
    if way != 1:
        door.note("half greeting", "left", True)
    line.close()


async def crowd(door: Door, random: Random) -> None:
    """Opens more silent connections than are allowed; those beyond the limit are closed at once."""
    lines = [await door.connect() for _ in range(CROWD)]
    heard = await asyncio.gather(*(line.hears(0.5) for line in lines[-8:]))
    out = sum(words == b"" for words in heard)
    door.note("crowd", "turned away" if out else "none turned away", out > 0)
    for line in lines:
        line.close()


async def patient(door: Door, random: Random) -> None:
    """Connects and says nothing: is shown out when a ticket would be too late."""
    line = await door.connect()
    try:
        heard = await line.hears(2 * SECONDS)
    finally:
        line.close()
    door.note("silence", "closed" if heard == b"" else f"heard {heard!r}", heard == b"")


async def bad_ticket(door: Door, random: Random) -> None:
    """Goes over to a connection that was not made, by a ticket that is none of its own."""
    guest, other = await door.call(), await door.call()
    asked = random.random() < 0.7
    if asked:
        await guest.ask()
    foreign = await other.ask()
    if random.random() < 0.5:
        line = await door.connect()
        await line.says(foreign)
    else:
        line = None
    wrong = [foreign, random.randbytes(TICKET_BYTES), random.randbytes(31), bytes(1000), b"\0"]
    await guest.send(asking(random.choice(wrong)))
    await guest.end("bad ticket", set())
    await other.end("bad ticket", set())
    if line is not None:
        heard = await line.hears()
        door.note("bad ticket", "closed" if heard == b"" else f"heard {heard!r}", heard == b"")
        line.close()


async def never_made(door: Door, random: Random) -> None:
    """Goes over to a connection that it never makes, and goes away."""
    guest = await door.call()
    await guest.send(asking(await guest.ask()))
    await asyncio.sleep(random.choice([0.0, 0.01, 0.05]))
    guest.cancel()
    await guest.end("never made", LOST)


async def show_used_ticket(door: Door, random: Random) -> None:
    """Shows a ticket twice, or after its call: the connection is closed without an answer."""
    guest = await door.call()
    ticket = await guest.ask()
    first = await door.connect()
    took = await first.says(ticket) if random.random() < 0.5 else False
    if took and random.random() < 0.5:
        await guest.send(asking(ticket))
        first.half_close()
    if not took:
        await guest.end("used ticket", set())
    second = await door.connect()
    taken = await second.says(ticket)
    door.note("used ticket", "taken" if taken else "closed", not taken)
    if took:
        await guest.end("used ticket", set())
    for line in (first, second):
        line.close()


async def asks_again(door: Door, random: Random) -> None:
    """Asks often, in the middle of a gradient, beside a plan or a step, or of what it has."""
    guest = await door.call()
    plan = pb.StepStreamRequest(plan=pb.StepPlan(session=SENTINEL)).SerializeToString()
    start = pb.StepStreamRequest(step=pb.StepStart(byte_count=64)).SerializeToString()
    lists = [
        [asking()] * random.randrange(2, 40),
        [plan, start, asking()],
        [plan + asking()],
        [plan, start + asking()],
        [asking(), plan, start, asking(random.randbytes(32))],
    ]
    await guest.send(*random.choice(lists))
    await guest.end("asks again", set())


async def let_in(door: Door, random: Random) -> None:
    """Authenticates, sends a malformed frame, and disconnects in one of three ways."""
    make = random.choice(FRAMES)
    kind, pieces = f"data {make.__name__.replace('_', ' ')}", make(random)
    guest = await door.call()
    line = await guest.enter()
    if line is None:
        door.note(kind, "turned away", True)
        guest.cancel()
        return
    await line.send(pieces, random.choice([0.0, 0.0, 0.002]) if make is dribble else 0.0)
    if random.random() < 0.3:
        await guest.send(step_message(random))  # over the call, which is no longer read
    if random.random() < 0.3:
        line.reset()
        await guest.end(kind, LOST | {grpc.StatusCode.INVALID_ARGUMENT}, pieces)
        return
    line.half_close()
    heard = await line.hears()
    if heard is None:
        door.note(kind, "not closed", False)
    line.close()
    await guest.end(kind, LOST, pieces)


Visit = Callable[[Door, Random], Awaitable[None]]
VISITS: tuple[tuple[Visit, float], ...] = (
    (stranger, 15),
    (half_greeting, 10),
    (bad_ticket, 8),
    (never_made, 5),
    (show_used_ticket, 8),
    (asks_again, 8),
    (let_in, 60),
    (crowd, 0.2),
)
"""What hostile callers do, and how often."""


def any_visit(random: Random) -> Visit:
    """What a hostile caller does."""
    kinds, weights = zip(*VISITS, strict=True)
    visit: Visit = random.choices(kinds, weights)[0]
    return visit
