"""Messages of drivers as the client's values, and back."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from stubs import driver_pb2 as pb

import optserve
from optserve._codec.dtypes import Array, from_tensor, to_tensor
from optserve.spec import Spec, decode_spec
from optserve.v1 import session_service_pb2, tensor_pb2


def arrays(message: pb.Tensors) -> dict[str, Array]:
    """Messages as arrays."""
    return {named.name: from_tensor(named.tensor) for named in message.tensors}


def tensors(arrays: Mapping[str, Array]) -> pb.Tensors:
    """Arrays as messages."""
    named = [tensor_pb2.NamedTensor(name=name, tensor=to_tensor(a)) for name, a in arrays.items()]
    return pb.Tensors(tensors=named)


def first_value(init: session_service_pb2.ParameterInit) -> Array | optserve.Initialized:
    """An array, or how the server is to make it."""
    if init.HasField("value"):
        return from_tensor(init.value)
    wanted = init.initializer
    dtype = "float32" if wanted.dtype == tensor_pb2.DATA_TYPE_FLOAT32 else "float64"
    return optserve.Initialized(tuple(wanted.shape), dtype, specification(wanted.spec))


def specification(message: Any) -> Any:
    """The client's own value for a specification."""
    return decode_spec(message)


def list_fields(spec: Spec) -> dict[str, Any]:
    """The fields of a session's specification that are set."""
    names = [field.name for field in dataclasses.fields(spec)]  # type: ignore[arg-type]
    return {name: value for name in names if (value := getattr(spec, name)) not in (None, ())}
