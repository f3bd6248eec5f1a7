"""Errors as statuses: the table is the contract's, and the details say what they should."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from google.protobuf.message import Message
from google.rpc.error_details_pb2 import BadRequest, ErrorInfo, RetryInfo

from optserve.v1.error_reason_pb2 import ErrorReason
from optserve_server.errors import DomainError, Reason
from optserve_server.wire.errors import CODES, error_status, error_status_code

PROTO = Path(__file__).parents[3] / "proto/optserve/v1/error_reason.proto"


def details(error: DomainError) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for detail in error_status(error).details:
        for kind in (ErrorInfo, BadRequest, RetryInfo):
            message: Message = kind()
            if detail.Unpack(message):
                found[kind.__name__] = message
    return found


def test_reasons_are_those_of_the_contract() -> None:
    names = [name.removeprefix("ERROR_REASON_") for name, _ in ErrorReason.items()]
    assert names == ["UNSPECIFIED", *(reason.value for reason in Reason)]


def test_each_reason_has_the_code_that_the_contract_states() -> None:
    stated = dict.fromkeys(Reason, "")
    code = ""
    for line in PROTO.read_text().splitlines():
        begun = re.match(r"  // ([A-Z_]+)(\.|,)", line)
        code = begun[1] if begun else code
        named = re.match(r"  ERROR_REASON_([A-Z_]+) = ", line)
        if named and named[1] in Reason.__members__:
            stated[Reason[named[1]]] = code
    assert {reason: code.name for reason, code in CODES.items()} == stated


def test_a_status_names_reason_field_and_delay() -> None:
    error = DomainError(
        Reason.SEQUENCE_GAP,
        "expected 7",
        field="options.sequence",
        metadata={"expected": 7},
        retry_after=1.25,
    )
    found = details(error)
    assert (error_status(error).code, error_status(error).message) == (
        error_status_code(error).value[0],
        "expected 7",
    )
    info = found["ErrorInfo"]
    assert (info.reason, info.domain, dict(info.metadata)) == (
        "SEQUENCE_GAP",
        "optserve.v1",
        {"expected": "7", "applied": "no"},
    )
    assert [violation.field for violation in found["BadRequest"].field_violations] == ["options.sequence"]
    assert found["RetryInfo"].retry_delay.ToTimedelta().total_seconds() == 1.25


@pytest.mark.parametrize("reason", Reason)
def test_every_error_says_whether_anything_was_applied(reason: Reason) -> None:
    """A defect may have struck anywhere; what was refused for a reason changed nothing."""
    info = details(DomainError(reason, "why"))["ErrorInfo"]
    assert info.metadata["applied"] == ("unknown" if reason is Reason.INTERNAL else "no")


def test_details_that_do_not_apply_are_left_out() -> None:
    assert list(details(DomainError(Reason.INTERNAL, "a defect"))) == ["ErrorInfo"]
