"""What step streams with threads and with coroutines have in common."""

from __future__ import annotations

from collections.abc import Mapping

from numpy.typing import DTypeLike

from optserve import coercion
from optserve._codec.caller_arrays import check_caller_arrays, has_same_arrays
from optserve._codec.dtypes import Array
from optserve._codec.layout import Layout
from optserve._engine.plan import PlanOptions
from optserve._engine.step_core import MAX_WINDOW
from optserve.parameters import Pulling, as_pull


class BaseStepStream:
    """What the steps of a stream ask for.

    Args:
        layout: of the session.
        pull: what to return with each answer.
        wire_dtype: element type of gradients, and of parameters if ``pull`` names none.
        window: maximum number of steps in flight, from 1 to 64.

    Raises:
        ValueError, TypeError: an argument is wrong.
    """

    def __init__(self, layout: Layout, pull: Pulling, wire_dtype: DTypeLike | None, window: int) -> None:
        self._window = coercion.to_int(window, "window")
        if not 1 <= self._window <= MAX_WINDOW:
            raise ValueError(f"window is {window}, but must be from 1 to {MAX_WINDOW}")
        self._layout = layout
        self._pull = as_pull(pull, wire_dtype)
        self._pulled = None if self._pull is None else layout.select(self._pull.tensors)
        self._options = PlanOptions(self._pull, wire_dtype)
        self._checked: Mapping[str, Array] | None = None  # the arrays of `into` that were checked last

    def _select_options(self, per_tensor_norms: bool) -> PlanOptions:
        return self._options if not per_tensor_norms else self._options._replace(per_tensor_norms=True)

    def _check_into(self, into: Mapping[str, Array] | None) -> None:
        """Checks the caller's arrays, once for the same ones."""
        if into is not None and (self._checked is None or not has_same_arrays(into, self._checked)):
            self._checked = check_caller_arrays(into, self._pulled)
