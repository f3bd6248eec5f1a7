"""Steps that repeat the one before are read as the generated code reads them, or not at all."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from optserve.v1 import session_service_pb2 as pb
from optserve_server.wire.repetition import Repetition

COUNTS = st.one_of(st.integers(0, 300), st.integers(0, 2**63 - 1))
SIGNED = st.one_of(st.none(), COUNTS, st.integers(-(2**63), -1))


@st.composite
def requests(draw: st.DrawFn, payload: st.SearchStrategy[bytes] | None = None) -> pb.StepStreamRequest:
    request = pb.StepStreamRequest()
    header = request.header
    header.name = draw(st.sampled_from(["", "sessions/a"]))
    header.options.worker = draw(st.sampled_from(["", "worker", "\x10\x05"]))
    vary(request, draw(COUNTS), draw(SIGNED), draw(COUNTS))
    if draw(st.booleans()):
        header.options.loss_scale = draw(st.floats(allow_nan=False))
    if draw(st.booleans()):
        header.options.pull.tensors.append("w")
    if draw(st.booleans()):
        request.chunk.byte_offset = draw(st.sampled_from([0, 0, 0, 8]))
        request.chunk.data = draw(payload or st.binary(max_size=20))
    return request


def vary(request: pb.StepStreamRequest, sequence: int, expected: int | None, gradient_id: int) -> None:
    options = request.header.options
    options.sequence, request.header.gradient_id = sequence, gradient_id
    options.ClearField("expected_step")
    if expected is not None:
        options.expected_step = expected


def differing(request: pb.StepStreamRequest) -> tuple[int, int | None, int]:
    options = request.header.options
    expected = options.expected_step if options.HasField("expected_step") else None
    return options.sequence, expected, request.header.gradient_id


def alike(one: pb.StepStreamRequest, other: pb.StepStreamRequest) -> bool:
    """Whether nothing differs but what may."""
    copies = [pb.StepStreamRequest.FromString(r.SerializeToString()) for r in (one, other)]
    for copy in copies:
        vary(copy, 0, None, 0)
        copy.chunk.data = b""
    return copies[0] == copies[1]


def pattern_of(message: bytes) -> Repetition | None:
    """The pattern of a message, which is that of any first bytes up to its payload."""
    pattern = Repetition.of(message, len(message))
    for end in range(len(message)):
        from_head = Repetition.of(message[:end], len(message))
        assert (from_head is None) == (pattern is None or end < pattern.payload)
    return pattern


def read(pattern: Repetition, message: bytes) -> Any:
    """What is read of a message, and of its first bytes up to its payload."""
    found = pattern.read(message, len(message))
    assert pattern.read(message[: pattern.payload], len(message)) == found
    return found


def check(pattern: Repetition, known: pb.StepStreamRequest, message: bytes) -> Any:
    """What is read of a message is what it says."""
    found = read(pattern, message)
    if found is not None:
        said = pb.StepStreamRequest.FromString(message)
        assert found == differing(said)
        assert alike(known, said)
        assert message[pattern.payload :] == said.chunk.data
    return found


@given(requests(), COUNTS, COUNTS, COUNTS, st.data())
def test_a_repetition_is_read(
    known: pb.StepStreamRequest, sequence: int, expected: int, gradient_id: int, data: st.DataObject
) -> None:
    pattern = pattern_of(known.SerializeToString())
    assert pattern is not None
    again = pb.StepStreamRequest.FromString(known.SerializeToString())
    vary(again, sequence, expected, gradient_id)
    size = len(known.chunk.data)
    again.chunk.data = data.draw(st.binary(min_size=size, max_size=size))
    check(pattern, known, again.SerializeToString())


def test_the_numbers_of_a_loop_are_read_and_not_compared() -> None:
    known = pb.StepStreamRequest()
    known.header.options.worker = "w"
    known.chunk.data = b"12345678"
    vary(known, 1000, 999, 0)
    pattern = pattern_of(known.SerializeToString())
    assert pattern is not None
    vary(known, 1001, 1000, 0)
    assert read(pattern, known.SerializeToString()) == (1001, 1000, 0)
    vary(known, 128, 128, 0)
    assert read(pattern, known.SerializeToString()) == (128, 128, 0)
    vary(known, 127, 128, 0)
    assert read(pattern, known.SerializeToString()) is None


@given(requests(), requests())
def test_of_another_message_nothing_false_is_read(
    known: pb.StepStreamRequest, other: pb.StepStreamRequest
) -> None:
    pattern = pattern_of(known.SerializeToString())
    assert pattern is not None
    check(pattern, known, other.SerializeToString())


@given(requests(), st.data())
def test_of_changed_bytes_nothing_false_is_read(known: pb.StepStreamRequest, data: st.DataObject) -> None:
    message = known.SerializeToString()
    pattern = pattern_of(message)
    assert pattern is not None
    changed = bytearray(message)
    for _ in range(data.draw(st.integers(1, 3)) if changed else 0):
        changed[data.draw(st.integers(0, len(changed) - 1))] = data.draw(st.integers(0, 255))
    check(pattern, known, bytes(changed))


def test_fields_that_come_twice_make_no_pattern() -> None:
    header = pb.StepStreamRequest()
    header.header.options.sequence = 5
    twice = header.SerializeToString() * 2
    assert pattern_of(twice) is None
    chunk = pb.StepStreamRequest()
    chunk.chunk.data = b"abcd"
    assert pattern_of(chunk.SerializeToString() + header.SerializeToString()) is None
