"""The codec without copies writes and reads what the generated code does."""

from __future__ import annotations

import pytest
from google.protobuf.message import DecodeError
from hypothesis import given
from hypothesis import strategies as st

from optserve._codec.framing import ChunkView, Framed, Framing, encode_varint
from optserve.v1 import session_service_pb2 as wire
from optserve.v1 import tensor_pb2

KINDS = {
    wire.StepStreamRequest: ("plan", wire.StepPlan(session="sessions/a", tensors=["x", "é"])),
    wire.StepStreamResponse: ("result", wire.StepResult(step=3, learning_rate=0.25)),
    wire.PullParametersResponse: ("header", wire.ParametersHeader(step=1, byte_count=9)),
    wire.PushParametersRequest: ("header", wire.PushHeader(name="sessions/b", reset_state=True)),
}
kinds = st.sampled_from(list(KINDS))
offsets = st.integers(0, 2**64 - 1) | st.just(0)
payloads = st.binary(max_size=300)


def message(kind, with_header, offset=None, data=b""):
    """A generated message, with a header and a chunk where asked for."""
    made = kind()
    if with_header:
        name, header = KINDS[kind]
        getattr(made, name).CopyFrom(header)
    if offset is not None:
        made.chunk.CopyFrom(tensor_pb2.Chunk(byte_offset=offset, data=data))
    return made


@given(kinds, st.booleans(), st.none() | offsets, payloads)
def test_bytes_are_those_of_the_generated_code(kind, with_header, offset, data):
    chunk = None if offset is None else ChunkView(offset, memoryview(data))
    written = Framing(kind).encode(Framed(message(kind, with_header), chunk))
    assert written == message(kind, with_header, offset, data).SerializeToString()


def whole(kind, framed):
    """What a framed message stands for, as a generated one."""
    made = kind()
    made.CopyFrom(framed.message)
    if framed.chunk is not None:
        made.chunk.byte_offset = framed.chunk.byte_offset
        made.chunk.data = bytes(framed.chunk.data)
        made.chunk.SetInParent()
    return made


def unknown_field(number, content):
    return encode_varint(number << 3 | 2) + encode_varint(len(content)) + content


@given(kinds, st.lists(st.tuples(st.booleans(), st.none() | offsets, payloads), max_size=4), st.data())
def test_any_order_repetition_and_unknown_fields_are_read_alike(kind, parts, data):
    pieces = [message(kind, *part).SerializeToString() for part in parts]
    pieces += [
        unknown_field(4000, b"later"),
        encode_varint(77 << 3) + encode_varint(2**63),
        encode_varint(78 << 3 | 5) + b"1234",
    ]
    received = b"".join(data.draw(st.permutations(pieces)))
    expected = kind.FromString(received)
    assert whole(kind, Framing(kind).decode(received)) == expected


@given(kinds, st.lists(st.tuples(st.booleans(), st.none() | offsets, payloads), max_size=3), st.data())
def test_a_chunk_of_a_known_length_is_read_alike(kind, parts, data):
    pieces = [message(kind, *part).SerializeToString() for part in parts]
    pieces.append(unknown_field(4000, message(kind, True, 0, b"inner").SerializeToString()))
    received = b"".join(data.draw(st.permutations(pieces)))[: data.draw(st.integers(0, 1000))]
    lengths = [len(payload) for *_, payload in parts]
    found = Framing(kind).split_sized(received, data.draw(st.sampled_from([*lengths, 0, 5, 10**6])))
    assert found is None or whole(kind, Framed(*found)) == kind.FromString(received)


@given(kinds, st.booleans(), payloads)
def test_a_chunk_of_the_length_that_is_expected_is_found(kind, with_header, data):
    received = message(kind, with_header, 0 if data else None, data).SerializeToString()
    found = Framing(kind).split_sized(memoryview(received), len(data))
    assert found is not None
    assert whole(kind, Framed(*found)) == kind.FromString(received)
    assert Framing(kind).split_sized(received, len(data) + 1) is None


@given(kinds, st.binary(max_size=60))
def test_garbage_is_refused_or_read_alike(kind, received):
    try:
        expected = kind.FromString(received)
    except DecodeError:
        expected = None
    try:
        framed = Framing(kind).decode(received)
    except DecodeError:
        return  # groups, which no message of ours has, are refused here and skipped there
    assert expected is not None
    assert whole(kind, framed) == expected


def test_the_payload_is_a_view_of_what_was_received():
    received = message(wire.StepStreamRequest, True, 8, b"payload").SerializeToString()
    framed = Framing(wire.StepStreamRequest).decode(received)
    assert framed.chunk.data.obj is received


@pytest.mark.parametrize("received", [b"\x12\x05ab", b"\x12\xff\xff\xff\xff\x0f", b"\x80" * 11, b"\x02\x00"])
def test_what_is_no_message_is_refused(received):
    with pytest.raises(DecodeError):
        Framing(wire.StepStreamRequest).decode(received)


@given(kinds, st.lists(st.tuples(st.booleans(), st.none() | offsets, payloads), max_size=3), st.data())
def test_the_first_bytes_tell_what_the_message_does_or_nothing(kind, parts, data):
    """However a message is cut, and whatever comes twice in it."""
    received = b"".join(message(kind, *part).SerializeToString() for part in parts)
    here = data.draw(st.integers(0, len(received)))
    check_ahead(kind, received, here)


@given(kinds, st.binary(max_size=60), st.data())
def test_the_first_bytes_of_garbage_tell_nothing_false(kind, received, data):
    check_ahead(kind, received, data.draw(st.integers(0, len(received))))


def check_ahead(kind, received, here):
    framing, places = Framing(kind), []
    known = framing.parse_head(received[:here], len(received), places.append)
    if known is None:
        return
    others, chunk = known
    whole = framing.decode(received)
    assert framing.decode_fields(received, others) == whole.message
    assert (chunk.byte_offset, chunk.byte_count) == (whole.chunk.byte_offset, len(whole.chunk.data))
    assert bytes(chunk.received) + received[here:] == whole.chunk.data
    assert chunk.receive_rest == places.append


@given(kinds, st.booleans(), offsets, st.binary(min_size=1, max_size=300))
def test_a_head_and_what_opens_a_chunk_tell_all(kind, with_header, offset, data):
    received = message(kind, with_header, offset, data).SerializeToString()
    known = Framing(kind).parse_head(received[: len(received) - len(data)], len(received), print)
    assert known is not None
    assert known[1].byte_count == len(data)
    assert not known[1].received
