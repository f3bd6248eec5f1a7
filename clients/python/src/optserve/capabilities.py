"""Capabilities of a server."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self

import numpy as np

from optserve._codec.dtypes import NUMPY_TYPES
from optserve.message_record import MessageRecord
from optserve.spec import member_or_none
from optserve.specs.enums import Convention
from optserve.v1 import capabilities_service_pb2 as wire


@dataclass(frozen=True)
class Hyperparameter:
    """One hyperparameter.

    Attributes:
        name: as in the algorithm's specification.
        range: allowed values, as text.
        defaults: as text, by convention; empty if it is required.
    """

    name: str
    range: str
    defaults: Mapping[Convention, str]


@dataclass(frozen=True)
class Algorithm:
    """One algorithm.

    Attributes:
        family: optimizers, schedules, losses, activations, initializers or layers.
        name: within its family.
        hyperparameters: by name.
    """

    family: str
    name: str
    hyperparameters: Mapping[str, Hyperparameter]


@dataclass(frozen=True)
class Limits(MessageRecord, message=wire.Limits):
    """Limits of a server; 0 means no limit.

    Attributes:
        max_message_bytes: largest message that it receives.
        max_session_bytes: largest session, parameters and state together.
        max_sessions: largest number of sessions.
        max_tensor_rank: largest number of dimensions.
        max_tensors: largest number of tensors of a session.
        chunk_bytes: bytes per chunk that it sends.
    """

    max_message_bytes: int
    max_session_bytes: int
    max_sessions: int
    max_tensor_rank: int
    max_tensors: int
    chunk_bytes: int


@dataclass(frozen=True)
class Capabilities(MessageRecord, message=wire.GetCapabilitiesResponse):
    """What a server can do.

    Attributes:
        server_version: of its software.
        api_version: package of the contract.
        backend: executor of the kernels: numpy, numba or cupy.
        device: the device on which it runs them.
        algorithms: by family and name, as in ``algorithms["optimizers"]["adam"]``.
        parameter_dtypes: element types of parameters.
        wire_dtypes: element types of gradients, and of parameters on the wire.
        limits: the server's.
        features: names of what it offers beyond the core of the contract, such as ``snapshots``.
    """

    server_version: str
    api_version: str
    backend: str
    device: str
    algorithms: Mapping[str, Mapping[str, Algorithm]]
    parameter_dtypes: tuple[np.dtype[np.generic], ...]
    wire_dtypes: tuple[np.dtype[np.generic], ...]
    limits: Limits
    features: frozenset[str]

    @classmethod
    def from_message(cls, message: wire.GetCapabilitiesResponse, **converted: object) -> Self:
        algorithms: dict[str, dict[str, Algorithm]] = {}
        for item in message.algorithms:
            algorithms.setdefault(item.family, {})[item.name] = _decode_algorithm(item)
        return super().from_message(
            message,
            algorithms=algorithms,
            parameter_dtypes=tuple(NUMPY_TYPES[d] for d in message.parameter_dtypes if d in NUMPY_TYPES),
            wire_dtypes=tuple(NUMPY_TYPES[d] for d in message.wire_dtypes if d in NUMPY_TYPES),
            features=frozenset(message.features),
        )


def _decode_algorithm(message: wire.Algorithm) -> Algorithm:
    hyperparameters = {item.name: _decode_hyperparameter(item) for item in message.hyperparameters}
    return Algorithm(message.family, message.name, hyperparameters)


def _decode_hyperparameter(message: wire.Hyperparameter) -> Hyperparameter:
    pairs = [(member_or_none(Convention, item.convention), item.value) for item in message.defaults]
    defaults = {convention: value for convention, value in pairs if convention is not None}
    return Hyperparameter(message.name, message.range, defaults)
