"""The number of elements of a message, counted before it is decoded."""

from __future__ import annotations

import contextlib
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from optserve.v1 import session_service_pb2 as pb
from optserve_server.errors import DomainError, Reason
from optserve_server.wire.fields.field_count import check_field_count
from tests.integration.client import sgd

CREATE = pb.CreateSessionRequest.DESCRIPTOR


def nest(of: tuple[int, bytes]) -> bytes:
    """A field with a message in it."""
    number, inner = of
    return bytes([number << 3 | 2, len(inner) & 0x7F]) + inner


def request_of(count: int) -> bytes:
    request = pb.CreateSessionRequest(spec=sgd(), session_id="s" * 200, seed=1 << 40)
    for number in range(count):
        request.parameters.add(name=f"w{number}")
    return request.SerializeToString()


def test_a_field_may_occur_as_often_as_the_limit_says() -> None:
    check_field_count(request_of(5), CREATE, 5)
    check_field_count(request_of(50), CREATE, 0)
    with pytest.raises(DomainError) as caught:
        check_field_count(request_of(6), CREATE, 5)
    assert (caught.value.reason, caught.value.field) == (Reason.LIMIT_EXCEEDED, "parameters")
    assert caught.value.metadata == {"limit": "max_tensors", "value": "5"}


def test_unknown_fields_count_as_well() -> None:
    with pytest.raises(DomainError) as caught:
        check_field_count(bytes([0xFA, 0x01, 0x00]) * 6, CREATE, 5)  # field 31, empty
    assert caught.value.field is None


def test_numbers_in_one_sequence_of_bytes_are_not_counted() -> None:
    request = pb.CreateSessionRequest()
    request.parameters.add().upload.shape.extend([1, 300] * 1000)
    check_field_count(request.SerializeToString(), CREATE, 1)


@pytest.mark.parametrize(
    "field", ["parameters.name", "spec.groups", "spec.groups.tensors", "spec.groups.name"]
)
def test_elements_are_counted_wherever_they_are(field: str) -> None:
    """In all messages together: each has few."""
    request = pb.CreateSessionRequest()
    for number in range(10):
        parameter, group = request.parameters.add(), request.spec.groups.add()
        if field == "parameters.name":
            parameter.name = "w"
        elif field == "spec.groups.tensors":
            group.tensors.extend(["a", "b"])
        elif field == "spec.groups.name":
            group.name = f"g{number}"
    data = request.SerializeToString()
    most = 20 if field == "spec.groups.tensors" else 10
    check_field_count(data, CREATE, most)
    with pytest.raises(DomainError) as caught:
        check_field_count(data, CREATE, most - 1)
    assert caught.value.field in (field, "parameters", "spec.groups")


def test_a_million_elements_deep_within_are_refused_without_being_decoded() -> None:
    request = pb.CreateSessionRequest()
    request.spec.groups.add().tensors.extend(["a"] * 1_000_000)
    data = request.SerializeToString()
    began = time.monotonic()
    with pytest.raises(DomainError) as caught:
        check_field_count(data, CREATE, 100_000)
    assert caught.value.field == "spec.groups.tensors"
    assert time.monotonic() - began < 2


@given(st.recursive(st.binary(max_size=8), lambda inner: st.tuples(st.integers(1, 15), inner).map(nest)))
def test_nested_bytes_pass_or_are_refused(data: bytes) -> None:
    with contextlib.suppress(DomainError):
        check_field_count(data, CREATE, 2)


@given(st.binary(max_size=60))
def test_bytes_that_cannot_be_read_pass(data: bytes) -> None:
    check_field_count(data, CREATE, 1000)
