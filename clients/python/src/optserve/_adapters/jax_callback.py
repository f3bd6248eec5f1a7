"""Calls of host functions from JAX, traced or not."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.experimental import io_callback


def call_host(function: Callable[..., Any], results: Any, *arguments: Any) -> Any:
    """Calls a function of NumPy arrays once, whether the arguments are traced or not.

    In a compiled program the calls keep their order. On arrays of several devices that one program computes
    with, the function gets the whole values.

    Args:
        function: takes and returns trees of NumPy arrays, and uses nothing of JAX: computations of JAX
            inside a callback wait for a thread that the callback occupies.
        results: tree of `jax.ShapeDtypeStruct`, as the function returns arrays.
        arguments: trees of arrays.

    Returns:
        Arrays in the tree of ``results``.

    Raises:
        ValueError: the call is mapped over devices or over an axis, so that it would be made several times.
    """
    mapped = jax.sharding.get_abstract_mesh().manual_axes
    if mapped:
        axes = ", ".join(map(str, mapped))
        raise ValueError(
            f"a step inside pmap or shard_map (mapped axes: {axes}) would be taken once by each device;"
            " reduce the gradients there, and take the step outside"
        )

    def call(*given: Any) -> Any:
        return function(*jax.tree.map(np.asarray, given))

    leaves = jax.tree.leaves(arguments)
    if any(isinstance(leaf, jax.core.Tracer) for leaf in leaves):
        return io_callback(call, results, *arguments, ordered=True)
    # np.array copies: JAX may share the memory of what it is given.
    return jax.tree.map(
        lambda found, wanted: jax.numpy.asarray(np.array(found, wanted.dtype)), call(*arguments), results
    )
