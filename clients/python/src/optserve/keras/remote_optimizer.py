"""Optimizer of Keras whose rule runs on a server."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
from google.protobuf import json_format

from optserve import coercion, errors
from optserve._adapters.host_session import HostSession
from optserve._codec.dtypes import Array
from optserve._engine.step_result import StepResult
from optserve.client import Client, connect
from optserve.complexity import AnyOptimizer
from optserve.keras.host_call import call_host, to_numpy
from optserve.session import SessionHandle
from optserve.spec import decode_spec, encode_spec
from optserve.specs.enums import Convention
from optserve.specs.optimizers import Optimizer
from optserve.specs.session_spec import ParameterGroup, SessionSpec
from optserve.v1 import session_pb2

SPEC_FIELDS = frozenset(field.name for field in dataclasses.fields(SessionSpec))

UNDECAYED_GROUP = "no_weight_decay"
"""Name of the session's group of variables that are excluded from weight decay."""


@keras.saving.register_keras_serializable(package="optserve")
class RemoteOptimizer(keras.optimizers.Optimizer):  # type: ignore[misc]  # Keras is optional
    """A Keras optimizer whose rule and state are those of a session, for every backend of Keras 3.

    The session is created, under the convention KERAS, with the variables' values at the first step. Each
    step is one call, in compiled training functions too: it sends the gradients and, if Keras' learning rate
    is not the session's, the rate. It states the step that the model is at, which is saved with the model: a
    step from an old checkpoint is refused. Variables that were changed since the last step, as by
    ``load_weights`` or a constraint, are sent first.

    Clipping, the moving average, loss scaling and accumulation of gradients that Keras has arguments for are
    Keras' own; those of the session are ``gradient`` and ``weight_average``. On TensorFlow the model must be
    compiled with ``jit_compile=False``, which is what ``"auto"`` means without a GPU.

    Args:
        rule: the rule, such as ``optserve.optimizers.Adam(learning_rate=1e-3)``, or its name.
        server: its address, or a client, which the caller closes.
        session_id: last part of the session's name; chosen by the server when empty.
        resume: whether the session exists, and the model takes its parameters.
        learning_rate: Keras' rate: a number, a `LearningRateSchedule` or a function; the rule's when None.
        weight_decay: decoupled weight decay of the session; the rule's when None.
        options: further arguments of `keras.optimizers.Optimizer`, such as ``clipnorm`` and ``name``, and of
            `Client.create_session`, such as ``reduce_on_plateau``.

    Raises:
        ValueError, TypeError: an argument is wrong.
        OptserveError: neither ``rule`` nor ``learning_rate`` states a rate, and the server, which has the
            default, could not be reached.
    """

    def __init__(
        self,
        rule: AnyOptimizer,
        *,
        server: str | Client,
        session_id: str = "",
        resume: bool = False,
        learning_rate: Any = None,
        weight_decay: float | None = None,
        **options: Any,
    ) -> None:
        if resume and not session_id:
            raise ValueError("session_id is empty, but must name the session that is resumed")
        settings = {name: options.pop(name) for name in SPEC_FIELDS & options.keys()}
        chosen: Any = dataclasses.replace(Optimizer.of(rule, "rule"), convention=Convention.KERAS)
        client = connect(server) if isinstance(server, str) else server
        if settings.get("schedule") is not None:
            if learning_rate is not None:
                raise ValueError("learning_rate and schedule are both given, but only one may be")
            chosen, learning_rate = dataclasses.replace(chosen, learning_rate=None), 0.0
        elif chosen.learning_rate is None:
            given = isinstance(learning_rate, int | float)
            rate = learning_rate if given else _default_learning_rate(client, chosen)
            chosen = dataclasses.replace(chosen, learning_rate=rate)
        if learning_rate is None:
            learning_rate = chosen.learning_rate
        if isinstance(learning_rate, int):
            learning_rate = float(learning_rate)
        super().__init__(learning_rate=learning_rate, weight_decay=weight_decay, **options)
        if weight_decay is not None:
            settings["decoupled_weight_decay"] = weight_decay
        spec = SessionSpec(chosen, **settings)
        self._remote = _Remote(client, isinstance(server, str), spec, session_id)
        self._resumes = resume
        if resume:
            self._remote.session_name = coercion.to_session_name(session_id)

    def build(self, variables: Sequence[Any]) -> None:
        """Creates the optimizer's variables; with ``resume``, the model takes the session's parameters."""
        super().build(variables)
        self._session_step = self.add_variable(
            (), "zeros", "int", aggregation="only_first_replica", name="session_step"
        )
        self._remote.name_variables(
            [getattr(v, "path", v.name) for v in variables], [self._use_weight_decay(v) for v in variables]
        )
        if self._resumes:
            self.pull()

    @property
    def session(self) -> SessionHandle:
        """The session, which is created if there is none yet.

        Raises:
            ValueError: the optimizer is not built.
            OptserveError: an error of the server, or it could not be reached.
        """
        # JAX leaves the variables without values when fit raises.
        host = self._remote.host or self._remote.open(self._read_variables())
        return host.session

    @property
    def last_result(self) -> StepResult | None:
        """The result of the last step; None before it, or if that failed."""
        return self._remote.last_result

    @property
    def last_error(self) -> errors.OptserveError | None:
        """The error of the last step, of which JAX and TensorFlow raise the text; None if it did not fail."""
        return self._remote.last_error

    def pull(self) -> None:
        """Takes over the session's parameters and step, as after steps of another client."""
        values = self._read_variables()
        host = self._remote.open(values)
        pulled, step = host.pull(dict(zip(self._remote.names, values, strict=True)))
        for variable, value in zip(self._trainable_variables, pulled.values(), strict=True):
            variable.assign(np.array(value, np.float64 if value.dtype == np.float64 else np.float32))
        self._session_step.assign(step)

    def close(self) -> None:
        """Ends the connection; the session stays on the server."""
        self._remote.close()

    def get_config(self) -> dict[str, Any]:
        message = encode_spec(self._remote.spec)
        return {
            **super().get_config(),
            "spec": json_format.MessageToDict(message, preserving_proto_field_name=True),
            "server": self._remote.client._connection.target,
            "session_id": self._remote.session_id,
            "session_name": self._remote.session_name,
        }

    @classmethod
    def from_config(cls, config: dict[str, Any], custom_objects: Any = None) -> RemoteOptimizer:
        """Makes an optimizer that continues the session of a saved one, connected without credentials."""
        config = dict(config)
        spec: Any = decode_spec(json_format.ParseDict(config.pop("spec"), session_pb2.SessionSpec()))
        name = config.pop("session_name")
        settings = {f: value for f in SPEC_FIELDS if (value := getattr(spec, f))}
        if config.pop("weight_decay") is not None:
            config["weight_decay"] = settings.pop("decoupled_weight_decay")
        if "schedule" in settings:
            del config["learning_rate"]
        config["rule"] = settings.pop("optimizer")
        made: RemoteOptimizer = super().from_config(config | settings, custom_objects)
        made._remote.session_name = name
        return made

    def _apply_weight_decay(self, variables: Any) -> None:
        """The session's decay takes the place of Keras'."""

    def _backend_update_step(
        self, grads: Sequence[Any], trainable_variables: Sequence[Any], learning_rate: Any
    ) -> None:
        every = self._trainable_variables
        stepped = [self._get_variable_index(variable) for variable in trainable_variables]
        like = [self._session_step, *(every[i] for i in stepped)]
        arguments = [self._session_step, keras.ops.cast(learning_rate, "float32"), *grads, *every]
        take = functools.partial(self._remote.take_step, stepped)

        def call() -> Sequence[Any]:
            return call_host(take, like, arguments)

        if self.gradient_accumulation_steps and keras.backend.backend() == "jax":
            # There Keras computes a step of each gradient, and keeps the results of every n-th alone.
            is_last = (self._iterations + 1) % self.gradient_accumulation_steps == 0
            values = keras.ops.cond(is_last, call, lambda: [keras.ops.convert_to_tensor(v) for v in like])
        else:
            values = call()
        for variable, value in zip(like, values, strict=True):
            variable.assign(value)

    def _read_variables(self) -> list[Array]:
        if not self.built:
            raise ValueError("the optimizer has no variables yet; build it, or take a step")
        return [to_numpy(variable) for variable in self._trainable_variables]


class _Remote:
    """What an optimizer has on the host: its session, and how that is made.

    Args:
        client: of the server.
        owns_client: whether to close it.
        spec: of the session, without groups for weight decay.
        session_id: wanted; chosen by the server when empty.

    Attributes:
        host: the session; None before it is opened.
    """

    def __init__(self, client: Client, owns_client: bool, spec: SessionSpec, session_id: str) -> None:
        self.client, self._owns_client = client, owns_client
        self.spec, self.session_id = spec, coercion.to_string(session_id, "session_id")
        self.session_name = ""
        self.names: tuple[str, ...] = ()
        self._undecayed: tuple[str, ...] = ()
        self.host: HostSession | None = None
        rate = getattr(spec.optimizer, "learning_rate", None)
        self._rate = None if rate is None else np.float32(rate)
        self.last_result: StepResult | None = None
        self.last_error: errors.OptserveError | None = None

    def name_variables(self, paths: Sequence[str], decays: Sequence[bool]) -> None:
        """Sets the names of the session's tensors, and which of them are subject to weight decay.

        Keras' paths are neither unique nor those of the same model in another process, so that a session
        is continued by the numbers that the names begin with.
        """
        names = [f"{number}/{path}" for number, path in enumerate(paths)]
        self.names = tuple(names)
        self._undecayed = tuple(
            name for name, is_decayed in zip(names, decays, strict=True) if not is_decayed
        )

    def open(self, values: Sequence[Array]) -> HostSession:
        """The session, which is created with the values of all variables if there is none."""
        if self.host is None:
            if self.session_name:
                self.host = HostSession(self._attach(values))
            else:
                settings = {name: getattr(self.spec, name) for name in SPEC_FIELDS - {"optimizer"}}
                if self._undecayed:
                    group = ParameterGroup(
                        UNDECAYED_GROUP, tensors=self._undecayed, decoupled_weight_decay=0.0
                    )
                    settings["groups"] = (*self.spec.groups, group)
                parameters = dict(zip(self.names, values, strict=True))
                self.host = HostSession.create(
                    self.client, parameters, self.spec.optimizer, self.session_id, settings
                )
                self.session_name = self.host.session.name
        return self.host

    def _attach(self, values: Sequence[Array]) -> SessionHandle:
        """The session that exists; the variables get the names that they have there."""
        session = self.client.session(self.session_name)
        names = sorted(session.layout, key=lambda name: int(f"0{name.partition('/')[0]}"))
        shapes = [session.layout[name].shape for name in names]
        if shapes != [value.shape for value in values]:
            raise ValueError(f"{session.name} has tensors of other shapes than the optimizer's variables")
        self.names = tuple(names)
        return session

    def take_step(self, stepped: Sequence[int], step: Array, rate: Array, *arrays: Array) -> list[Array]:
        """Takes a step.

        Args:
            stepped: numbers of the variables that have gradients.
            step: that the session must have.
            rate: Keras' learning rate.
            arrays: the gradients, and the values of all variables.

        Returns:
            The session's step, and the new values of the variables that have gradients.
        """
        gradients, values = arrays[: len(stepped)], arrays[len(stepped) :]
        overrides = {"learning_rate": float(rate)} if self._rate not in (None, rate) else None
        self.last_result = self.last_error = None
        try:
            host = self.open(values)
            names = [self.names[i] for i in stepped]
            parameters = dict(zip(self.names, values, strict=True))
            new, result = host.step(
                dict(zip(names, gradients, strict=True)), parameters, int(step), overrides
            )
        except errors.OptserveError as error:
            self.last_error = error
            raise
        self.last_result = result
        return [np.asarray(result.step, step.dtype), *(new[name] for name in names)]

    def close(self) -> None:
        if self.host is not None:
            self.host.close()
        if self._owns_client:
            self.client.close()


def _default_learning_rate(client: Client, rule: Optimizer) -> float:
    """The rate that the server takes for a rule without one."""
    declared = client.capabilities().algorithms["optimizers"][rule.FIELD].hyperparameters["learning_rate"]
    return float(declared.defaults[Convention.KERAS])
