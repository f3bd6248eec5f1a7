"""A session as the step of a framework sees it: NumPy arrays on the host."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from typing import Any

import ml_dtypes
import numpy as np

from optserve._codec.dtypes import Array
from optserve._engine.overrides import Overrides
from optserve._engine.step_result import StepResult
from optserve.client import Client
from optserve.session import SessionHandle

WIDE = ("float32", "float64")
"""Element types that parameters of a session have; those of the framework may also be half precision."""


class HostSession:
    """A session, and the parameters as its caller has them.

    The caller's parameters are the ones that count, as with a local optimizer: what it changed since the last
    step, such as a projected weight, is sent before the next one.

    Args:
        session: the session.
        held: parameters as the caller has them, by name, in its element types, which may be half precision.
            They are not copied, and must not change. None if that is not known: they are then compared
            with the session's at the first step.
    """

    def __init__(self, session: SessionHandle, held: Mapping[str, Array] | None = None) -> None:
        self.session = session
        self._held = None if held is None else dict(held)
        self._lock = threading.Lock()
        half = bool(held) and all(found.dtype == ml_dtypes.bfloat16 for found in (held or {}).values())
        self._stream = session.stream(pull=True, wire_dtype="bfloat16" if half else None)

    @classmethod
    def create(
        cls, client: Client, parameters: Mapping[str, Array], rule: Any, session_id: str, options: Any
    ) -> HostSession:
        """Creates a session.

        Args:
            client: of the server.
            parameters: initial values by name. Half precision becomes float32 in the session.
            rule: the optimizer.
            session_id: as for `Client.create_session`.
            options: its further arguments.
        """
        wide = {
            name: value if value.dtype.name in WIDE else _widen(name, value)
            for name, value in parameters.items()
        }
        session = client.create_session(wide, rule, session_id=session_id, **options)
        return cls(session, {name: np.array(value) for name, value in parameters.items()})

    def step(
        self,
        gradients: Mapping[str, Array],
        parameters: Mapping[str, Array],
        expected_step: int,
        overrides: Overrides | None = None,
        as_difference: bool = False,
    ) -> tuple[dict[str, Array], StepResult]:
        """Takes one step.

        Args:
            gradients: by name.
            parameters: all that the caller has, by name.
            expected_step: the step that the session must have.
            overrides: as for `StepStream.step`.
            as_difference: whether to return what the caller is to add to its parameters.

        Returns:
            The new values of what has a gradient, or their differences, in the shapes and types of
            ``parameters``, which the caller must not change; and the result.

        Raises:
            StepMismatch: the session has another step; nothing was applied or changed.
            OptserveError: as for `StepStream.step`.
        """
        with self._lock:
            self._push_changed(parameters, expected_step)
            result = self._stream.step(gradients, expected_step=expected_step, overrides=overrides or None)
            pulled = {name: _convert(result.parameters[name], parameters[name]) for name in gradients}
            assert self._held is not None
            if not as_difference:
                self._held.update(pulled)
                return pulled, result
            updates = {name: value - parameters[name] for name, value in pulled.items()}
            # What the caller's own addition yields, which rounds.
            self._held.update({name: parameters[name] + update for name, update in updates.items()})
            return updates, result

    def pull(self, like: Mapping[str, Array]) -> tuple[dict[str, Array], int]:
        """Reads the parameters, which the caller is to take over.

        Args:
            like: arrays of the same shapes and types, by name.

        Returns:
            The parameters, and the step to which they belong.
        """
        with self._lock:
            pulled = self.session.pull()
            self._held = {name: _convert(pulled[name], wanted) for name, wanted in like.items()}
            return dict(self._held), pulled.step

    def close(self) -> None:
        """Ends the stream; the session stays on the server."""
        self._stream.close()

    def _push_changed(self, parameters: Mapping[str, Array], step: int) -> None:
        """Sends the parameters that the caller changed."""
        if self._held is None:
            pulled = self.session.pull()
            self._held = {name: _convert(pulled[name], given) for name, given in parameters.items()}
        held = self._held
        changed = {
            n: given for n, given in parameters.items() if n not in held or not _is_same(given, held[n])
        }
        if changed:
            self.session.push(changed, expected_step=step)
            held.update({name: np.array(given) for name, given in changed.items()})


def _widen(name: str, value: Array) -> Array:
    if not np.can_cast(value.dtype, np.float32):
        raise TypeError(
            f"parameter {name!r} is {value.dtype}, but must be float16, bfloat16, float32 or float64"
        )
    return value.astype(np.float32)


def _convert(value: Array, like: Array) -> Array:
    return value.astype(like.dtype, copy=False).reshape(like.shape)


def _is_same(given: Array, held: Array) -> bool:
    """Whether two arrays have the same bits, but for subnormal numbers, which some kernels flush to zero."""
    bits = f"u{given.dtype.itemsize}"
    if given.dtype != held.dtype or given.shape != held.shape:
        return False
    if np.array_equal(given.view(bits), held.view(bits)):
        return True
    differs = given.view(bits) != held.view(bits)
    smallest = ml_dtypes.finfo(given.dtype).smallest_normal  # type: ignore[no-untyped-call]
    return bool((np.abs(given[differs]) < smallest).all() and (np.abs(held[differs]) < smallest).all())
