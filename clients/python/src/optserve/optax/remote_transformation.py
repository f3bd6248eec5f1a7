"""Gradient transformation of optax whose rule runs on a server."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import threading
import uuid
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np
import optax

from optserve import coercion, errors
from optserve._adapters.host_session import HostSession
from optserve._adapters.jax_callback import call_host
from optserve._codec.dtypes import Array
from optserve._engine.step_result import StepResult
from optserve.client import Client, connect
from optserve.complexity import AnyOptimizer
from optserve.session import SessionHandle
from optserve.specs.enums import Convention
from optserve.specs.optimizers import Optimizer

ID_BYTES = 63
"""Bytes of the longest session id."""

ROOT_NAME = "parameters"
"""Name of the tensor if the parameters are one array and no tree."""


class RemoteState(NamedTuple):
    """State of a `RemoteTransformation`, a tree of two arrays.

    Attributes:
        session: id of the session in ASCII, padded with zeros. uint8, [63].
        step: the session's step that the parameters belong to. int32, [].
    """

    session: jax.Array
    step: jax.Array


class RemoteTransformation(optax.GradientTransformationExtraArgs):  # type: ignore[misc]  # optax is optional
    """A `GradientTransformation` whose rule and state are those of a session.

    ``init`` creates a session, under the convention OPTAX, with the values of the parameters. ``update``
    takes one step of it, with one call, and returns the differences between the new parameters and
    ``params``. The state names the session and its step, which each update sends as the step that the
    session must have: an update that is executed again, or from an old checkpoint, is refused and changes
    nothing.

    Both work under `jax.jit`, in loops and conditionals of `jax.lax`, and eagerly. Transformations before it
    in `optax.chain` change the gradient; those after it change what is added to the parameters. Parameters
    that were changed since the last step, as by those or by a projection, are sent before the next.
    `optax.MultiSteps`, which makes updates and throws them away, is refused like any repetition.

    Args:
        rule: the rule, such as ``optserve.optimizers.Adam(learning_rate=1e-3)``, or its name.
        server: its address, or a client, which the caller closes.
        session_id: last part of the session's name; each call of ``init`` makes a new one when empty.
        session_options: further arguments of `Client.create_session`, such as ``schedule`` or ``gradient``.

    Attributes:
        init: makes a state from parameters.
        update: makes updates and a state from gradients, a state and parameters. The extra argument
            ``overrides`` has hyperparameters of this step alone, as for `SessionHandle.step`.

    Raises:
        ValueError, TypeError: an argument is wrong.
    """

    _sessions: _Sessions

    def __new__(
        cls, rule: AnyOptimizer, *, server: str | Client, session_id: str = "", **session_options: Any
    ) -> RemoteTransformation:
        sessions = _Sessions(rule, server, session_id, session_options)
        made: RemoteTransformation = super().__new__(cls, sessions.init, sessions.update)
        made._sessions = sessions
        return made

    def step(
        self, gradients: Any, state: RemoteState, params: Any, *, overrides: Any = None
    ) -> tuple[Any, RemoteState]:
        """Takes one step and returns the session's parameters themselves.

        `optax.apply_updates` rounds when it adds what ``update`` returns; these are the session's own bits.

        Args:
            gradients: tree of arrays of float16, bfloat16, float32 or float64.
            state: as ``init`` or the last step returned it.
            params: tree of arrays in the structure of ``gradients``.
            overrides: hyperparameters of this step alone, as for `SessionHandle.step`.

        Returns:
            The parameters, in the types of ``params``; and the state.

        Raises:
            StepMismatch: the session has another step than the state; nothing was applied. Under `jax.jit`
                this and the following are raised as a `jax.errors.JaxRuntimeError` with their text, and are
                in `last_error`.
            OptserveError: as for `StepStream.step`.
            ValueError: the trees differ, or the step is mapped over an axis or over devices.
        """
        return self._sessions.run(gradients, state, params, overrides, as_difference=False)

    def attach(self, session: str | SessionHandle, params: Any) -> tuple[Any, RemoteState]:
        """Takes over a session that exists, at its present step.

        Args:
            session: its name, or a handle.
            params: tree of arrays, whose structure, shapes and types the result has.

        Returns:
            The session's parameters, and the state.

        Raises:
            NotFound: there is no such session.
            OptserveError: another error of the server, or it could not be reached.
        """
        return self._sessions.attach(session, params)

    def session(self, state: RemoteState) -> SessionHandle:
        """Returns the session of a state."""
        return self._sessions.find(np.asarray(state.session)).session

    @property
    def last_error(self) -> errors.OptserveError | None:
        """The error of the last step, or of ``init``; None if it did not fail."""
        return self._sessions.last_error

    @property
    def last_result(self) -> StepResult | None:
        """The result of the last step; None before it, or if that failed."""
        return self._sessions.last_result

    def close(self) -> None:
        """Ends the connection; sessions stay on the server."""
        self._sessions.close()


class _Sessions:
    """The sessions of a transformation: one for each state that ``init`` made or that was restored."""

    def __init__(
        self, rule: AnyOptimizer, server: str | Client, session_id: str, options: Mapping[str, Any]
    ) -> None:
        chosen: Any = dataclasses.replace(Optimizer.of(rule, "rule"), convention=Convention.OPTAX)
        if options.get("schedule") is not None:
            chosen = dataclasses.replace(chosen, learning_rate=None)
        self._rule: Any = chosen
        gradient = options.get("gradient")
        if gradient is not None and gradient.accumulation_steps > 1:
            raise ValueError(
                "gradient.accumulation_steps is not 1, but the step that a state has does not number the"
                " gradients of one step; average them before the update"
            )
        self._session_id = coercion.to_string(session_id, "session_id")
        self._client = connect(server) if isinstance(server, str) else server
        self._owns_client = isinstance(server, str)
        self._options = dict(options)
        self._found: dict[str, HostSession] = {}
        self._lock = threading.Lock()
        self.last_error: errors.OptserveError | None = None
        self.last_result: StepResult | None = None

    def init(self, params: Any) -> RemoteState:
        """Creates a session with these parameters; see `RemoteTransformation`."""
        names, values = _flatten(params)
        results = RemoteState(jax.ShapeDtypeStruct((ID_BYTES,), np.uint8), jax.ShapeDtypeStruct((), np.int32))
        return call_host(functools.partial(self._create, names), results, values)  # type: ignore[no-any-return]

    def update(
        self, updates: Any, state: RemoteState, params: Any = None, *, overrides: Any = None, **_: Any
    ) -> tuple[Any, RemoteState]:
        """Takes a step and returns differences; see `RemoteTransformation`."""
        if params is None:
            raise ValueError("params is None, but must be the current parameters, to which updates are added")
        return self.run(updates, state, params, overrides, as_difference=True)

    def run(
        self, gradients: Any, state: RemoteState, params: Any, overrides: Any, as_difference: bool
    ) -> tuple[Any, RemoteState]:
        names, values = _flatten(params)
        found, given = _flatten(gradients)
        if found != names:
            odd = sorted(set(found) ^ set(names))
            raise ValueError(f"params has not the structure of the gradients: only one of them has {odd}")
        results = (
            jax.ShapeDtypeStruct((), np.int32),
            [jax.ShapeDtypeStruct(v.shape, v.dtype) for v in values],
        )
        numbers, tree = jax.tree.flatten(overrides or {})
        # Numbers of Python are not traced, which would round them to float32.
        fixed = [None if isinstance(number, jax.Array) else number for number in numbers]
        traced = [number if isinstance(number, jax.Array) else None for number in numbers]

        def take(
            session: Array, step: Array, traced: list[Any], given: list[Array], values: list[Array]
        ) -> Any:
            chosen = [a if b is None else float(b) for a, b in zip(fixed, traced, strict=True)]
            steps = dict(zip(names, given, strict=True)), dict(zip(names, values, strict=True)), int(step)
            with self._recording():
                host = self.find(session)
                outputs, result = host.step(*steps, jax.tree.unflatten(tree, chosen), as_difference)
            self.last_result = result
            return np.int32(result.step), [outputs[name] for name in names]

        step, outputs = call_host(take, results, state.session, state.step, traced, given, values)
        return jax.tree.unflatten(jax.tree.structure(params), outputs), RemoteState(state.session, step)

    def attach(self, session: str | SessionHandle, params: Any) -> tuple[Any, RemoteState]:
        names, values = _flatten(params)
        place = _encode_id(coercion.to_session_name(session))
        host = self.find(place)
        like = dict(zip(names, map(np.asarray, values), strict=True))
        pulled, step = host.pull(like)
        arrays = [jax.numpy.array(pulled[name]) for name in names]
        state = RemoteState(jax.numpy.array(place), jax.numpy.array(step, np.int32))
        return jax.tree.unflatten(jax.tree.structure(params), arrays), state

    def find(self, session: Array) -> HostSession:
        """The session of a state, whichever process made it."""
        name = "sessions/" + bytes(session).rstrip(b"\0").decode("ascii")
        with self._lock:
            if name not in self._found:
                self._found[name] = HostSession(self._client.session(name))
            return self._found[name]

    def close(self) -> None:
        for host in self._found.values():
            host.close()
        if self._owns_client:
            self._client.close()

    def _create(self, names: list[str], values: list[Array]) -> RemoteState:
        with self._recording():
            given = dict(zip(names, values, strict=True))
            id_ = self._session_id or f"optax-{uuid.uuid4().hex}"
            host = HostSession.create(self._client, given, self._rule, id_, self._options)
            with self._lock:
                self._found[host.session.name] = host
        return RemoteState(_encode_id(host.session.name), np.int32(host.session.step_number))

    @contextlib.contextmanager
    def _recording(self) -> Iterator[None]:
        """Keeps the error of a call, of which a compiled program raises only the text."""
        self.last_error = self.last_result = None
        try:
            yield
        except errors.OptserveError as error:
            self.last_error = error
            raise


def _flatten(tree: Any) -> tuple[list[str], list[Any]]:
    """Names and leaves of a tree of parameters."""
    pairs, _ = jax.tree_util.tree_flatten_with_path(tree)
    names = [jax.tree_util.keystr(path, simple=True, separator="/") or ROOT_NAME for path, _ in pairs]
    if not names:
        raise ValueError("params has no arrays")
    if len(set(names)) < len(names):
        twice = sorted(name for name in set(names) if names.count(name) > 1)
        raise ValueError(f"params has two arrays of one name: {', '.join(twice)}")
    return names, [leaf for _, leaf in pairs]


def _encode_id(name: str) -> Array:
    """The id of a session as a state has it."""
    return np.frombuffer(
        name.removeprefix("sessions/").encode("ascii").ljust(ID_BYTES, b"\0"), np.uint8
    ).copy()
