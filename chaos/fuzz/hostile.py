"""Hostile calls: what is sent, and how."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from random import Random

import numpy as np

from chaos.fuzz import requests
from chaos.fuzz.bytes import alter
from chaos.fuzz.requests import FUNCTIONS, HONEST, IMPORTED, SESSIONS, VICTIMS
from chaos.fuzz.snapshots import mutate_snapshot
from chaos.fuzz.structure import REQUESTS, make_message, mutate_message
from optserve.v1 import session_service_pb2 as pb
from optserve.v1 import tensor_pb2
from tests.integration.client import sgd

SENTINEL = "sessions/sentinel"
"""A session that nothing hostile may change."""


@dataclass(frozen=True)
class HostileCall:
    """A call as it goes over the wire.

    Attributes:
        kind: what is hostile about it.
        method: full name, with its slash.
        messages: their bytes.
        cancelled_after: seconds after which the client goes away; None to hear the server out.
        pause: seconds between two messages.
    """

    kind: str
    method: str
    messages: list[bytes]
    cancelled_after: float | None = None
    pause: float = 0.0


def random_bytes(random: Random) -> HostileCall:
    """Noise, to any method."""
    return HostileCall("noise", any_method(random), [random.randbytes(random.randrange(200))])


def mutate(random: Random) -> HostileCall:
    """An honest request with some bytes flipped, cut out, doubled or put in."""
    method = random.choice([*HONEST])
    return HostileCall("mutated", method, [alter(random, HONEST[method](random).SerializeToString())])


def wrong_wire_types(random: Random) -> HostileCall:
    """Fields of the right number and another type, nested as deeply as the size limit permits."""
    method, inner = random.choice([*HONEST]), b""
    for _ in range(random.randrange(1, 120)):
        number, wire_type = random.randrange(1, 12), random.choice([0, 1, 2, 3, 4, 5, 6, 7])
        tag = bytes([number << 3 | wire_type])
        inner = tag + (varint(len(inner)) + inner if wire_type == 2 else random.randbytes(8))
    return HostileCall("wire types", method, [inner])


def invalid_text(random: Random) -> HostileCall:
    """Strings that are no UTF-8, or no sensible name."""
    texts = [b"\xff\xfe", b"sessions/\xc0\xaf", b"\x00", b"sessions/../../etc/passwd", b"s" * 70_000]
    text = random.choice(texts)
    method = random.choice([SESSIONS + name for name in ("GetSession", "Step", "DeleteSession")])
    return HostileCall("text", method, [b"\x0a" + varint(len(text)) + text])


def absurd_shapes(random: Random) -> HostileCall:
    """Tensors whose extents overflow, are negative, many, or do not fit their bytes."""
    absurd = [0, -1, 1, 2**31, 2**32 + 1, 2**62, 2**63 - 1, -(2**63), 3]
    shape = [random.choice(absurd) for _ in range(random.choice([1, 2, 3, 40]))]
    tensor = tensor_pb2.Tensor(dtype=random.randrange(8), shape=shape, data=bytes(random.randrange(64)))  # type: ignore[arg-type]
    if random.random() < 0.5:
        request = pb.CreateSessionRequest(spec=sgd())
        parameter = request.parameters.add(name="w")
        if random.random() < 0.5:
            parameter.value.CopyFrom(tensor)
        else:
            parameter.initializer.shape.extend(shape)
            parameter.initializer.dtype = tensor_pb2.DATA_TYPE_FLOAT32
            parameter.initializer.spec.normal.SetInParent()
        return HostileCall("shapes", SESSIONS + "CreateSession", [request.SerializeToString()])
    gradient = tensor_pb2.NamedTensor(name="w", tensor=tensor)
    step = pb.StepRequest(name=SENTINEL, gradients=[gradient])
    return HostileCall("shapes", SESSIONS + "Step", [step.SerializeToString()])


def oversize(random: Random) -> HostileCall:
    """More than a message may hold."""
    return HostileCall("oversized", SESSIONS + "Step", [b"\x0a" + varint(5 << 20) + bytes(5 << 20)])


EXPRESSIONS = (
    "__import__('os').system('true')",
    "(" * 900 + "y_pred" + ")" * 900,
    "y_pred" + "**2" * 300,
    "y_pred.__class__",
    "lambda: y_pred",
    "[x for x in (1,)]",
    "exp(" * 60 + "y_pred" + ")" * 60,
    "9" * 1000,
    "9**9**9**9**9",
    "1e999 * y_pred",
    "y_pred if y_true else 0",
    "y_pred; y_true",
    "y_pred #",
    "\u202ey_pred",
    "\uff59_pred",
    "f'{y_pred}'",
    "y_pred\x00",
    "",
)


def hostile_expression(random: Random) -> HostileCall:
    """A formula that is none, or is too much."""
    request = requests.loss(random)
    text = random.choice(EXPRESSIONS)
    if random.random() < 0.5:
        alphabet = "y_predtu()*+-/., 0123456789eE[]{}'\"\\:;@=<>!&|^~%\n"
        text = "".join(random.choice(alphabet) for _ in range(random.randrange(80)))
    request.loss.custom.expression = text
    return HostileCall("expressions", FUNCTIONS + "ComputeLoss", [request.SerializeToString()])


def random_frames(random: Random) -> HostileCall:
    """Plans, steps and chunks of a stream to a victim, in no order."""
    messages = []
    for number in range(random.randrange(1, 24)):
        message = pb.StepStreamRequest()
        if random.random() < (0.8 if not number else 0.1):
            message.plan.session = requests.victim(random)
            message.plan.gradient_dtype = random.choice([0, 0, 0, 3, 99])  # type: ignore[assignment]
        elif random.random() < 0.4:
            message.step.byte_count = random.choice([64, 64, 64, 0, 2**64 - 1])
        if random.random() < (0.7 if number else 0.1):
            message.chunk.byte_offset = random.choice([0, 0, 32, 64, 2**63, 2**64 - 1])
            message.chunk.data = random.randbytes(random.choice([0, 16, 32, 64, 65]))
        messages.append(message.SerializeToString())
    return HostileCall("frames", SESSIONS + "StepStream", messages)


def cancel_stream(random: Random) -> HostileCall:
    """Most of a gradient for the sentinel, slowly, and then the client goes away, or ends."""
    plan = pb.StepStreamRequest(plan=pb.StepPlan(session=SENTINEL))
    start = pb.StepStreamRequest(step=pb.StepStart(byte_count=4 * requests.ELEMENTS))
    data = np.ones(requests.ELEMENTS - 1, np.float32).tobytes()
    chunk = tensor_pb2.Chunk(data=data[: random.randrange(len(data))])
    sent = (plan, start, pb.StepStreamRequest(chunk=chunk))
    messages = [message.SerializeToString() for message in sent]
    away = random.choice([None, 0.0, 0.002, 0.02])
    pause = random.choice([0.0, 0.0, 0.005])
    return HostileCall("cancelled", SESSIONS + "StepStream", messages, away, pause)


def bad_push(random: Random) -> HostileCall:
    """A push to the sentinel that is never whole, or too much."""
    size = random.choice([0, 1, 63, 65, 1000])
    announced = random.choice([64, 64, size, 2**64 - 1])
    header = pb.PushParametersRequest(header=pb.PushHeader(name=SENTINEL, byte_count=announced))
    chunk = pb.PushParametersRequest(chunk=tensor_pb2.Chunk(data=bytes(size)))
    messages = [header.SerializeToString(), chunk.SerializeToString()]
    return HostileCall("push", SESSIONS + "PushParameters", messages)


def hostile_import(random: Random) -> HostileCall:
    """An import of a mutated snapshot."""
    data = mutate_snapshot(random)
    header = pb.ImportHeader(
        byte_count=len(data),
        session_id=random.choice([*IMPORTED, *IMPORTED, VICTIMS[0]]),
        request_id=random.choice(["", "", "import"]),
    )
    messages = [pb.ImportSnapshotRequest(header=header)]
    size = random.choice([len(data), 1 << 12])
    messages += [
        pb.ImportSnapshotRequest(chunk=tensor_pb2.Chunk(byte_offset=at, data=data[at : at + size]))
        for at in range(0, len(data), size)
    ]
    return HostileCall("snapshots", SESSIONS + "ImportSnapshot", [m.SerializeToString() for m in messages])


MAY_WAIT = frozenset(SESSIONS + name for name in ("Step", "StepStream", "PullParameters", "WatchSession")) | {
    "/optserve.v1.WorkerService/AcquireShards"
}
"""Methods that may wait for other workers, or for a later step, as long as the caller does."""


def mutate_structure(random: Random) -> HostileCall:
    """A readable request of any method whose fields have any values of their types."""
    method = random.choice([*REQUESTS])
    names = tuple(f"sessions/{name}" for name in VICTIMS) + VICTIMS
    messages = []
    for _ in range(random.choice([1, 1, 2, 6]) if method in STREAMED else 1):
        if method in HONEST and random.random() < 0.7:
            message = HONEST[method](random)
            mutate_message(random, message, names)
        else:
            message = make_message(random, REQUESTS[method], names)
        messages.append(message.SerializeToString())
    return HostileCall("structure", method, messages)


STREAMED = frozenset(SESSIONS + name for name in ("StepStream", "PushParameters", "ImportSnapshot"))
"""Methods that take several messages."""

KINDS: tuple[tuple[Callable[[Random], HostileCall], int], ...] = (
    (random_bytes, 15),
    (mutate, 25),
    (mutate_structure, 60),
    (wrong_wire_types, 10),
    (invalid_text, 5),
    (absurd_shapes, 10),
    (hostile_expression, 10),
    (random_frames, 15),
    (cancel_stream, 6),
    (bad_push, 4),
    (hostile_import, 10),
)
"""Kinds of calls, and how often each is drawn."""


def any_call(random: Random) -> HostileCall:
    """A hostile call; of those that are too large one in a thousand."""
    if random.random() < 0.001:
        return oversize(random)
    kinds, weights = zip(*KINDS, strict=True)
    make: Callable[[Random], HostileCall] = random.choices(kinds, weights)[0]
    return make(random)


def any_method(random: Random) -> str:
    """A method of the contract, now and then one that there is not."""
    services = pb.DESCRIPTOR.services_by_name["SessionService"].methods
    return random.choice([*HONEST, *(SESSIONS + m.name for m in services), SESSIONS + "NoSuchMethod"])


def varint(value: int) -> bytes:
    """A number as it goes over the wire."""
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])
