"""The names that the corpus has to cover, by family."""

from __future__ import annotations

from typing import Any

from optserve.v1 import session_pb2
from optserve_server import activations, complexity, losses, optimizers, schedules
from optserve_server.registry import Registry
from tests.conformance import corpus
from tests.conformance.messages import SPECS

REGISTRIES: dict[str, Registry[Any]] = {
    "optimizers": optimizers.REGISTRY,
    "schedules": schedules.REGISTRY,
    "losses": losses.REGISTRY,
    "activations": activations.REGISTRY,
    "layers": complexity.REGISTRY,
}

ON_METRICS = ("early_stopping", "reduce_on_plateau")
"""What a session may hold that listens to metrics."""

NOT_RECORDED = {"non_finite"}
"""Settings of a gradient without vectors: non-finite ones are rejected."""

OF_STEP = {"overrides"}
"""What a step may state that changes what is computed, beside the loss scale, which is divided out."""

KEEPING = {"lease", "durability", "coordination", "data_plan"}
"""Lease, durability, and which workers and examples steps come from: nothing that is computed."""


def list_required(family: str) -> set[str]:
    """What must have a vector file: in the contract, or in the server's registry."""
    if family == "gradient":
        return settings()
    if family == "metrics":
        return set(ON_METRICS)
    return set(oneof_names(SPECS[family].DESCRIPTOR)) | set(REGISTRIES[family])


def settings() -> set[str]:
    """Every field that changes what a rule sees or uses, or what a session keeps."""
    gradient = fields(session_pb2.GradientSpec) - {"clip"} - NOT_RECORDED
    clips = set(oneof_names(session_pb2.ClipSpec.DESCRIPTOR))
    session = fields(session_pb2.SessionSpec) - {"optimizer", "schedule", "gradient", *ON_METRICS} - KEEPING
    return gradient | clips | session | OF_STEP


def list_recorded(family: str) -> set[str]:
    """What has a vector file."""
    return {path.stem for path in (corpus.VECTORS / family).glob("*.json")}


def oneof_names(descriptor: Any) -> list[str]:
    """The fields of a message's only oneof that is not the presence of a scalar."""
    (oneof,) = (o for o in descriptor.oneofs if not o.name.startswith("_"))
    return [field.name for field in oneof.fields]


def fields(message: Any) -> set[str]:
    """The names of a message's fields."""
    return {field.name for field in message.DESCRIPTOR.fields}
