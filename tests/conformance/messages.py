"""The messages whose JSON mapping the cases' specs are, by family."""

from __future__ import annotations

from google.protobuf import json_format
from google.protobuf.message import Message

from optserve.v1 import (
    activation_spec_pb2,
    loss_spec_pb2,
    network_spec_pb2,
    optimizer_spec_pb2,
    schedule_spec_pb2,
    session_pb2,
)
from tests.conformance.corpus import Case

SPECS: dict[str, type[Message]] = {
    "optimizers": optimizer_spec_pb2.OptimizerSpec,
    "schedules": schedule_spec_pb2.ScheduleSpec,
    "losses": loss_spec_pb2.LossSpec,
    "activations": activation_spec_pb2.ActivationSpec,
    "gradient": session_pb2.SessionSpec,
    "layers": network_spec_pb2.LayerSpec,
    "metrics": session_pb2.SessionSpec,
}


def parse(family: str, case: Case) -> Message:
    """A case's spec as a message; unknown names are errors."""
    message = SPECS[family]()
    json_format.ParseDict(dict(case.spec), message)
    return message
