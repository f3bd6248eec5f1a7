"""What hostile callers send over a data connection."""

from __future__ import annotations

from collections.abc import Callable
from random import Random

import numpy as np

from chaos.fuzz import requests
from chaos.fuzz.bytes import alter
from chaos.fuzz.hostile import SENTINEL
from chaos.fuzz.structure import mutate_message
from optserve._transport.data_connection import PREFIX
from optserve.v1 import session_service_pb2 as pb
from optserve.v1 import tensor_pb2

TICKET_BYTES = 32
LONG = 4 << 20
"""The longest message that the server takes, by its settings."""


def asking(ticket: bytes = b"") -> bytes:
    """Asks for a data connection, or goes over to it."""
    request = pb.DataConnectionRequest(ticket=ticket)
    return pb.StepStreamRequest(data_connection=request).SerializeToString()


def plan_message(random: Random) -> bytes:
    """The plan of a stream on a victim, now and then with a worker or a pull."""
    plan = pb.StepPlan(session=requests.victim(random))
    if random.random() < 0.2:
        plan.worker = "w"
    if random.random() < 0.5:
        plan.pull.SetInParent()
    return pb.StepStreamRequest(plan=plan).SerializeToString()


def step_message(random: Random) -> bytes:
    """A step in one message."""
    data = np.ones(requests.ELEMENTS, np.float32).tobytes()
    message = pb.StepStreamRequest(chunk=tensor_pb2.Chunk(data=data))
    message.step.byte_count, message.step.validate_only = len(data), random.random() < 0.5
    return message.SerializeToString()


def frame(message: bytes, flag: int = 0) -> bytes:
    """A message as it goes over a data connection."""
    return PREFIX.pack(flag, len(message)) + message


def flags(random: Random) -> list[bytes]:
    """A flag that there is not."""
    return [frame(plan_message(random)), frame(step_message(random), random.randrange(1, 256))]


def lengths(random: Random) -> list[bytes]:
    """A length that the bytes do not have, or no message may have."""
    length = random.choice([0, 1, 5, LONG - 1, LONG, LONG + 1, 2**31 - 1, 2**31, 2**32 - 1])
    return [PREFIX.pack(0, length) + random.randbytes(random.choice([0, 3, 100]))]


def cut_off(random: Random) -> list[bytes]:
    """Steps, the last of them not whole."""
    whole = frame(plan_message(random)) + b"".join(frame(step_message(random)) for _ in range(3))
    return [whole[: random.randrange(len(whole))]]


def noise(random: Random) -> list[bytes]:
    """Random bytes, with a prefix or without one."""
    data = random.randbytes(random.randrange(1, 300))
    return [frame(data) if random.random() < 0.5 else data]


def structures(random: Random) -> list[bytes]:
    """Readable messages of a stream whose fields have any values of their types."""
    names, messages = tuple(f"sessions/{name}" for name in requests.VICTIMS), []
    for make in (plan_message, step_message, step_message):
        message = pb.StepStreamRequest.FromString(make(random))
        if random.random() < 0.6:
            mutate_message(random, message, names)
        messages.append(message.SerializeToString())
    return [frame(message) for message in messages]


def mutations(random: Random) -> list[bytes]:
    """Plans and steps with bytes flipped, cut out, doubled or put in; their lengths are right."""
    good = [plan_message(random), step_message(random)]
    wrong = [alter(random, random.choice(good)) for _ in range(random.randrange(1, 5))]
    return [frame(message) for message in good + wrong]


def tiny(random: Random) -> list[bytes]:
    """Many messages with next to nothing in them, as fast as they go."""
    start = pb.StepStart(byte_count=4 * requests.ELEMENTS, validate_only=True)
    begun = frame(pb.StepStreamRequest(step=start).SerializeToString())
    chunk = frame(pb.StepStreamRequest(chunk=tensor_pb2.Chunk()).SerializeToString())
    again = frame(plan_message(random))
    return [again, random.choice([begun + chunk * random.randrange(1, 3000), again * 300])]


def flood(random: Random) -> list[bytes]:
    """Whole steps without waiting for an answer."""
    steps = [frame(step_message(random)) * 50 for _ in range(random.randrange(1, 20))]
    return [frame(plan_message(random)), *steps]


def dribble(random: Random) -> list[bytes]:
    """A step, byte by byte."""
    whole = frame(plan_message(random)) + frame(step_message(random))
    return [whole[i : i + 1] for i in range(random.randrange(1, len(whole)))]


def wrong_frames(random: Random) -> list[bytes]:
    """Plans and steps of the sentinel, chunks and requests for connections, in no order.

    Never a whole gradient.
    """
    plan = frame(pb.StepStreamRequest(plan=pb.StepPlan(session=SENTINEL)).SerializeToString())
    start = pb.StepStart(byte_count=random.choice([0, 64, 64, 64, 65, 2**64 - 1]))
    step = frame(pb.StepStreamRequest(step=start).SerializeToString())
    offset = random.choice([0, 60, 64, 2**63, 2**64 - 1])
    piece = tensor_pb2.Chunk(byte_offset=offset, data=random.randbytes(random.choice([0, 16, 65])))
    chunk = frame(pb.StepStreamRequest(chunk=piece).SerializeToString())
    again = frame(asking(random.choice([b"", random.randbytes(TICKET_BYTES)])))
    return [random.choice([plan, step, chunk, again]) for _ in range(random.randrange(1, 8))]


FRAMES: tuple[Callable[[Random], list[bytes]], ...] = (
    flags,
    lengths,
    cut_off,
    noise,
    mutations,
    structures,
    tiny,
    flood,
    dribble,
    wrong_frames,
)
"""What follows a good ticket."""
