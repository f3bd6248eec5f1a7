"""Calls of host functions from Keras, on any of its backends."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import keras
import ml_dtypes
import numpy as np

from optserve._codec.dtypes import Array

HostFunction = Callable[..., Sequence[Array]]


def call_host(function: HostFunction, like: Sequence[Any], arguments: Sequence[Any]) -> Sequence[Any]:
    """Calls a function of NumPy arrays once, from code that may be traced or compiled.

    Args:
        function: takes one array for each argument, and returns one for each of ``like``.
        like: variables or tensors that have the shapes and types of the results.
        arguments: variables or tensors.

    Returns:
        Tensors or arrays.

    Raises:
        RuntimeError: the code is compiled by TensorFlow's XLA, or runs in several replicas.
        ValueError: it is mapped over devices of JAX.
    """
    tensors = [keras.ops.convert_to_tensor(argument, sparse=False) for argument in arguments]
    return CALLS[keras.backend.backend()](function, like, tensors)


def to_numpy(tensor: Any) -> Array:
    """Returns the values of a tensor or variable in its own element type, bfloat16 as that of ml_dtypes."""
    if keras.backend.backend() != "torch":
        return np.asarray(keras.ops.convert_to_numpy(tensor))
    values = keras.ops.convert_to_tensor(tensor).detach().cpu()
    import torch

    if values.dtype is torch.bfloat16:
        return np.asarray(values.view(torch.int16).numpy().view(ml_dtypes.bfloat16))
    return np.asarray(values.numpy())


def _call_from_jax(function: HostFunction, like: Sequence[Any], tensors: Sequence[Any]) -> Sequence[Any]:
    import jax

    from optserve._adapters import jax_callback

    # Of the values, because a variable that is called float64 has float32 unless jax_enable_x64 is set.
    results = [jax.ShapeDtypeStruct(one.shape, keras.ops.convert_to_tensor(one).dtype) for one in like]
    return jax_callback.call_host(function, results, *tensors)  # type: ignore[no-any-return]


def _call_from_tensorflow(
    function: HostFunction, like: Sequence[Any], tensors: Sequence[Any]
) -> Sequence[Any]:
    import tensorflow as tf
    from tensorflow.python.ops import control_flow_util

    def call(*given: Array) -> list[Array]:
        # TensorFlow may keep the memory of what it is given.
        return [np.array(value, wanted.dtype) for value, wanted in zip(function(*given), like, strict=True)]

    if tf.distribute.get_strategy().num_replicas_in_sync > 1:
        raise RuntimeError(
            "each replica of a tf.distribute strategy would take the step; use a single device"
        )
    if tf.executing_eagerly():
        return call(*[np.asarray(tensor) for tensor in tensors])
    if control_flow_util.GraphOrParentsInXlaContext(tf.compat.v1.get_default_graph()):
        raise RuntimeError("TensorFlow's XLA cannot call a server; compile the model with jit_compile=False")
    found = tf.numpy_function(call, tensors, [tf.as_dtype(one.dtype) for one in like])
    return [tf.ensure_shape(value, one.shape) for value, one in zip(found, like, strict=True)]


def _call_from_torch(function: HostFunction, like: Sequence[Any], tensors: Sequence[Any]) -> Sequence[Any]:
    import torch

    def call() -> list[Any]:
        return [_to_torch(value) for value in function(*map(to_numpy, tensors))]

    return torch.compiler.disable(call)()  # type: ignore[no-any-return]


def _to_torch(value: Array) -> Any:
    import torch

    if value.dtype == ml_dtypes.bfloat16:
        return torch.from_numpy(value.view(np.int16)).view(torch.bfloat16)
    return torch.from_numpy(np.asarray(value))


CALLS = {"jax": _call_from_jax, "tensorflow": _call_from_tensorflow, "torch": _call_from_torch}
"""How each backend of Keras calls the host."""
