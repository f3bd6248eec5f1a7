"""Parsers that are fuzzed with coverage feedback: they accept an input, or reject it as they should.

``python -m chaos.fuzz.parsers NAME RUNS SEED FOLDER`` fuzzes one with atheris (libFuzzer) in this process,
from honest inputs, and ends with a status other than 0 at the first input for which it does anything else.
That input is in FOLDER then.
"""

from __future__ import annotations

import json
import re
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from random import Random
from typing import Any, NamedTuple

import atheris

with atheris.instrument_imports(include=["optserve_server", "optserve._codec"]):
    from chaos.fuzz.requests import HONEST
    from chaos.fuzz.snapshots import LENGTH, split_template, templates
    from optserve._codec.framing import Framing
    from optserve_server.arrays.numpy_blocked import NumpyBackend
    from optserve_server.durability.snapshot_codec import decode_snapshot
    from optserve_server.durability.snapshot_schema import check_snapshot_facts
    from optserve_server.errors import DomainError
    from optserve_server.losses.formula.custom import Custom
    from optserve_server.resources.budget import Budget
    from optserve_server.storage.damage import DamagedError
    from optserve_server.storage.records import encode_header, payload_checksum, scan_segment
    from optserve_server.storage.snapshot import read_snapshot
    from optserve_server.wire.fields.field_count import check_field_count
    from optserve_server.wire.messages import parameters, sessions, steps
    from optserve_server.wire.specifications.spec_text import SPEC_TEXT

from google.protobuf.message import DecodeError

from optserve.v1 import session_service_pb2 as pb
from tests.integration.client import plan_message, step_messages

MAX_INPUT_BYTES = 16 << 10
LONGEST_INPUT_S = 60
"""Seconds that an input may take."""

KINDS: tuple[Any, ...] = (pb.StepStreamRequest, pb.PushParametersRequest, pb.ImportSnapshotRequest)
"""Messages of streams; the first byte of an input chooses one."""


STRICTER = re.compile("too many fields|wire type [34]")
"""Errors of the framing for what the generated code reads: very many fields, and groups."""


def read_frame(data: bytes) -> None:
    """A message of a stream, which the generated code reads alike."""
    if not data:
        return
    kind, received = KINDS[data[0] % len(KINDS)], data[1:]
    try:
        expected = kind.FromString(received)
    except DecodeError:
        expected = None
    try:
        framed = Framing(kind).decode(received)
    except DecodeError as error:
        if expected is None or STRICTER.search(str(error)):
            return
        raise
    assert expected is not None, "only the framing reads it"
    found = kind()
    found.CopyFrom(framed.message)
    if framed.chunk is not None:
        found.chunk.byte_offset, found.chunk.data = framed.chunk.byte_offset, bytes(framed.chunk.data)
        found.chunk.SetInParent()
    for message in (found, expected):
        message.DiscardUnknownFields()  # of a chunk, which the framing does not keep
    assert found.SerializeToString(deterministic=True) == expected.SerializeToString(deterministic=True)


def read_creation(data: bytes) -> None:
    """A CreateSession request."""
    try:
        check_field_count(data, pb.CreateSessionRequest.DESCRIPTOR, 100)
        request = pb.CreateSessionRequest.FromString(data)
        sessions.spec_from(request)
        sessions.parameters_from(request.parameters)
    except (DecodeError, DomainError):
        return


def read_step(data: bytes) -> None:
    """A Step request."""
    try:
        check_field_count(data, pb.StepRequest.DESCRIPTOR, 100)
        request = pb.StepRequest.FromString(data)
        steps.unary_options_from(request.options)
        steps.gradients_from(request.gradients)
        steps.sparse_gradients_from(request.sparse_gradients)
        parameters.pull_from(request.options.pull)
    except (DecodeError, DomainError):
        return


def read_import(data: bytes) -> None:
    """An imported snapshot, of which the input is the header."""
    file = LENGTH.pack(len(data)) + data + split_template(templates()[1])[1]
    try:
        contents = read_snapshot(memoryview(file), needs_checksums=False)
        check_snapshot_facts(contents)
        decode_snapshot(contents, SPEC_TEXT, "fuzzed", NumpyBackend(), Budget({"max_memory_bytes": 1 << 28}))
    except (DamagedError, DomainError):
        return


def read_journal(data: bytes) -> None:
    """A segment of the journal."""
    for found in scan_segment(memoryview(data), 1):
        assert found is not None


def read_expression(data: bytes) -> None:
    """A formula of a loss."""
    try:
        Custom(expression=data.decode(errors="replace"))
    except DomainError:
        return


class Parser(NamedTuple):
    """A parser.

    Attributes:
        read: reads an input; an exception is a finding.
        seeds: honest inputs.
    """

    read: Callable[[bytes], None]
    seeds: Callable[[], Iterator[bytes]]


def _frames() -> Iterator[bytes]:
    plan = plan_message("sessions/x", worker="w", tensors=["a"])
    for message in (plan, *step_messages(bytes(64), sequence=3)):
        yield b"\0" + message.SerializeToString()
    yield b"\1" + pb.PushParametersRequest(header=pb.PushHeader(name="sessions/x")).SerializeToString()
    yield b"\2" + pb.ImportSnapshotRequest(header=pb.ImportHeader(byte_count=8)).SerializeToString()


def _requests(method: str) -> Iterator[bytes]:
    for number in range(8):
        yield HONEST[f"/optserve.v1.SessionService/{method}"](Random(number)).SerializeToString()


def _headers() -> Iterator[bytes]:
    for template in templates():
        header = split_template(template)[0]
        del header["checksums"]
        yield json.dumps(header).encode()


def _records() -> Iterator[bytes]:
    payload = bytes(range(40))
    yield encode_header(3, 1, len(payload), payload_checksum([payload], 1), 1) + payload


def _expressions() -> Iterator[bytes]:
    yield b"(y_pred - y_true)**2"
    yield b"where(abs(y_pred - y_true) < 1, 0.5*power(y_pred - y_true, 2), maximum(-log1p(exp(y_pred)), 0))"


PARSERS: Mapping[str, Parser] = {
    "frames": Parser(read_frame, _frames),
    "creations": Parser(read_creation, lambda: _requests("CreateSession")),
    "steps": Parser(read_step, lambda: _requests("Step")),
    "imports": Parser(read_import, _headers),
    "journals": Parser(read_journal, _records),
    "expressions": Parser(read_expression, _expressions),
}


def main() -> None:
    """Fuzzes one parser in this process."""
    name, runs, seed, findings = sys.argv[1:]
    parser = PARSERS[name]
    with tempfile.TemporaryDirectory() as corpus:
        for number, honest in enumerate(parser.seeds()):
            parser.read(honest)
            Path(corpus, str(number)).write_bytes(honest)
        options = [
            f"-runs={runs}",
            f"-seed={seed}",
            f"-max_len={MAX_INPUT_BYTES}",
            f"-timeout={LONGEST_INPUT_S}",
        ]
        atheris.Setup([name, *options, f"-artifact_prefix={findings}/", corpus], parser.read)
        atheris.Fuzz()


if __name__ == "__main__":
    main()
