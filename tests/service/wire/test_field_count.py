"""The number of elements of a message, counted before it is decoded."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from optserve.v1 import session_service_pb2 as pb
from optserve_server.errors import DomainError, Reason
from optserve_server.wire.fields.field_count import check_field_count
from tests.integration.client import sgd

CREATE = pb.CreateSessionRequest.DESCRIPTOR


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


@given(st.binary(max_size=60))
def test_bytes_that_cannot_be_read_pass(data: bytes) -> None:
    check_field_count(data, CREATE, 1000)
