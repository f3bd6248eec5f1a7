"""Initializers through a driver: they have no vectors, but one value for each seed and name."""

from __future__ import annotations

import numpy as np

from clients.python.conformance.stubs.driver_pb2 import DriverRequest
from optserve.v1.initializer_spec_pb2 import InitializerSpec
from optserve_server import initializers
from optserve_server.arrays.numpy_blocked import NumpyBackend
from optserve_server.sessions.store import ParameterInit, Store
from optserve_server.wire.specifications.specs import algorithm_from, session_spec_from
from tests.conformance.drivers import Driver
from tests.conformance.tensors import TYPES, Array, array_of
from tests.conformance.training import ALONE

SHAPE, SEED = (4, 3), 7
FIELDS = {"constant": {"value": 0.3}}
"""Required fields of initializers."""

NAMES = sorted(initializers.REGISTRY)


def check_draw(driver: Driver, name: str, dtype: np.dtype[np.generic]) -> None:
    """Has a server fill a tensor, by way of a client.

    Raises:
        AssertionError: what the client reads is not what the service draws, bit for bit.
    """
    request = request_of(name, dtype)
    response = driver.exchange(request)
    assert response.WhichOneof("outcome") == "train", f"the driver's answer is {response}"
    (named,) = response.train.initial.tensors
    found, wanted = array_of(named.tensor), draw(request)
    assert found.dtype == wanted.dtype == dtype
    assert np.array_equal(found, wanted), f"{name} differs in {dtype}"


def request_of(name: str, dtype: np.dtype[np.generic]) -> DriverRequest:
    """A session that takes no step."""
    request = DriverRequest()
    request.train.spec.optimizer.sgd.SetInParent()
    request.train.seed = SEED
    wanted = request.train.parameters.add(name=ALONE).initializer
    wanted.dtype = TYPES[dtype.name]
    wanted.shape.extend(SHAPE)
    wanted.spec.CopyFrom(spec_of(name))
    return request


def spec_of(name: str) -> InitializerSpec:
    """An initializer with its defaults."""
    return InitializerSpec(**{name: FIELDS.get(name, {})})  # type: ignore[arg-type]


def draw(request: DriverRequest) -> Array:
    """What the same session starts from in this process."""
    wanted = request.train.parameters[0].initializer
    dtype = np.dtype(np.float32 if wanted.dtype == TYPES["float32"] else np.float64)
    first = ParameterInit(ALONE, dtype, tuple(wanted.shape), algorithm_from(wanted.spec).algorithm)
    spec = session_spec_from(request.train.spec)
    session = Store(NumpyBackend()).create("", spec, [first], request.train.seed)
    return session.read_values().array(0)
