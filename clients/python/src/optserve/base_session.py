"""What session handles with threads and with coroutines have in common."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import TypeVar

from numpy.typing import DTypeLike

from optserve._codec.caller_arrays import check_caller_arrays, has_same_arrays
from optserve._codec.dtypes import Array
from optserve._codec.layout import Layout
from optserve._engine.plan import PlanOptions
from optserve._engine.step_result import StepResult
from optserve.metrics import MetricsReport
from optserve.parameters import Parameters, Pulling, as_pull
from optserve.session_info import SessionInfo
from optserve.specs.session_spec import SessionSpec
from optserve.state_transfer import StateTransfer

Transfers = dict[str, StateTransfer]
R = TypeVar("R", SessionInfo, StepResult, Parameters, MetricsReport)


class BaseSessionHandle:
    """The session as the last answer described it.

    Args:
        info: the session as the server described it.
    """

    def __init__(self, info: SessionInfo) -> None:
        self._info = info
        self._step = info.step
        self._asked: tuple[object, ...] = ()  # pull and wire_dtype as they were given last
        self._options = PlanOptions()
        self._checked: Mapping[str, Array] | None = None  # the arrays of `into` that were checked last

    @property
    def name(self) -> str:
        """The resource name, ``sessions/{id}``."""
        return self._info.name

    @property
    def layout(self) -> Layout:
        """The tensors by name, in the order of their bytes."""
        return self._info.layout

    @property
    def spec(self) -> SessionSpec:
        """The specification, every field resolved."""
        return self._info.spec

    @property
    def step_number(self) -> int:
        """The session's step in the last answer to this handle."""
        return self._step

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.name} at step {self._step}>"

    def _repr_html_(self) -> str:
        """A table for notebooks: the session as the last answer described it."""
        return dataclasses.replace(self._info, step=self._step)._repr_html_()

    def _select_options(
        self,
        pull: Pulling,
        wire_dtype: DTypeLike | None,
        per_tensor_norms: bool,
        validate_only: bool,
        into: Mapping[str, Array] | None,
    ) -> PlanOptions:
        """A step's options, the same object for equal ones, once the arrays of ``into`` were checked."""
        asked = pull, wire_dtype, per_tensor_norms, validate_only
        if asked != self._asked:
            options = PlanOptions(as_pull(pull, wire_dtype), *asked[1:])
            self._asked, self._options, self._checked = asked, options, None
        options = self._options
        if into is not None and (self._checked is None or not has_same_arrays(into, self._checked)):
            pulled = None if options.pull is None else self.layout.select(options.pull.tensors)
            self._checked = check_caller_arrays(into, pulled)
        return options

    def _accept_restored(self, info: SessionInfo) -> SessionInfo:
        self._info, self._step = info, info.step
        return info

    def _accept_info(self, info: SessionInfo) -> SessionInfo:
        self._info = info
        return self._accept_step(info)

    def _accept_step(self, result: R) -> R:
        """Notes the session's step in an answer."""
        self._step = max(self._step, result.step)
        return result

    def _accept_update(
        self, answer: tuple[SessionInfo, dict[str, StateTransfer]]
    ) -> dict[str, StateTransfer]:
        self._accept_info(answer[0])
        return answer[1]
