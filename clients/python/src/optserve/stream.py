"""A stream of steps with several in flight."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from types import TracebackType
from typing import Self

import numpy as np
from numpy.typing import DTypeLike

from optserve import coercion
from optserve._codec import dtypes
from optserve._codec.dtypes import Array
from optserve._codec.layout import Layout
from optserve._codec.sparse_rows import AnyGradients
from optserve._engine.overrides import Overrides
from optserve._engine.pending_step import PendingStep
from optserve._engine.shared_memory import SharedMemory
from optserve._engine.shared_regions import SharedRegions
from optserve._engine.step_engine import StepEngine
from optserve._engine.step_protocol import Membership
from optserve._engine.step_result import StepResult
from optserve._transport.connection import Connection
from optserve.base_stream import BaseStepStream
from optserve.parameters import Pulling


class StepStream(BaseStepStream):
    """A pipelined stream of steps; see `SessionHandle.stream`. Several threads may use it.

    Each stream is one worker: the server applies its steps in the order in which they were
    submitted, each once. If the connection is lost, the stream connects again and sends the steps
    without an answer again. After a rejected step the later ones are abandoned, and the stream can
    be used further. After a fork, the child's stream is another worker.

    Args:
        connection: to the server.
        name: of the session.
        layout: of the session.
        pull: what to return with each answer.
        wire_dtype: element type of gradients, and of parameters if ``pull`` names none; None for
            that of the arrays and each tensor's own.
        window: maximum number of steps in flight, from 1 to 64.
        timeout: seconds to wait for an answer.
        regions: shared memory for steps.
        worker: name and next sequence of its worker; a random name when None.
    """

    def __init__(
        self,
        connection: Connection,
        name: str,
        layout: Layout,
        pull: Pulling,
        wire_dtype: DTypeLike | None,
        window: int,
        timeout: float,
        regions: SharedRegions,
        worker: Membership | None = None,
    ) -> None:
        super().__init__(layout, pull, wire_dtype, window)
        self._engine = StepEngine(connection, name, layout, regions, timeout, self._window, member=worker)
        self._gradients: Mapping[str, Array] | None = None
        self._region: SharedMemory | None = None

    @property
    def gradients(self) -> Mapping[str, Array]:
        """Arrays to compute gradients into, by tensor name; `step` accepts these and any others.

        They are in memory shared with the server, if there is any, so that a step with them copies
        nothing. They must not be changed while a step with them is in flight, and they keep their
        values. Read the property again for each step: the arrays are replaced when the memory is,
        for instance after a restart of the server or a step without an answer.
        """
        region = self._region
        if self._gradients is None or (region is not None and not region.is_open):
            dtype = self._options.wire_dtype
            kind = None if dtype is None else dtypes.check_dtype(dtype, dtypes.WIRE_DTYPES, "wire_dtype")
            zeros = {t.name: np.zeros(t.shape, kind or t.dtype) for t in self._layout.values()}
            self._region = region = self._engine.find_region(zeros, self._options)
            self._gradients = zeros if region is None else region.gradients
        return self._gradients

    @property
    def shares_memory(self) -> bool:
        """Whether `gradients` are in memory shared with the server."""
        return bool(self.gradients) and self._region is not None

    def submit(
        self,
        gradients: AnyGradients,
        *,
        expected_step: int | None = None,
        loss_scale: float | None = None,
        per_tensor_norms: bool = False,
        overrides: Overrides | None = None,
    ) -> PendingStep:
        """Submits a step without waiting for its answer; arguments as for `step`.

        Waits only while the window is full. The gradients are copied and may be changed immediately.

        Raises:
            InvalidArgument: a name or a shape is wrong; nothing was submitted.
            ValueError: there is no gradient.
            TypeError: an element type is wrong.
            OptserveError: an earlier step failed, and its result was not read.
        """
        options = self._select_options(per_tensor_norms)
        return self._engine.submit(
            gradients, options, expected_step=expected_step, loss_scale=loss_scale, overrides=overrides
        )

    def step(
        self,
        gradients: AnyGradients,
        *,
        expected_step: int | None = None,
        loss_scale: float | None = None,
        per_tensor_norms: bool = False,
        overrides: Overrides | None = None,
        into: Mapping[str, Array] | None = None,
        timeout: float | None = None,
    ) -> StepResult:
        """Takes a step and waits for its answer.

        Args:
            gradients: as for `SessionHandle.step`.
            expected_step: the step that the session must have.
            loss_scale: factor of the loss, by which gradients are divided.
            per_tensor_norms: whether to return the norm of each tensor's gradient.
            overrides: as for `SessionHandle.step`.
            into: arrays by tensor name that are filled with the parameters, such as the model's own;
                new ones when None. They must not share memory with the gradients. After an error they
                may contain a part of the new values.
            timeout: seconds to wait for the answer; the stream's own when None.

        Raises:
            Unavailable, DeadlineExceeded: there was no answer; the step may have been applied.
                Repeating it with the same gradients applies them once.
            OptserveError: as for `submit` and `PendingStep.result`.
            ValueError: ``into`` does not match what the stream pulls; nothing was sent.
        """
        if timeout is not None:
            timeout = coercion.to_seconds(timeout, "timeout")
        if into is not None:
            self._check_into(into)
        return self._engine.step(
            gradients,
            self._options if not per_tensor_norms else self._select_options(True),
            expected_step=expected_step,
            loss_scale=loss_scale,
            overrides=overrides,
            into=into,
            timeout=timeout,
        )

    def steps(self, gradients: Iterable[AnyGradients]) -> Iterator[StepResult]:
        """Takes a step with each of the gradients, a window of them in flight; yields results in order."""
        pending: deque[PendingStep] = deque()
        for gradient in gradients:
            pending.append(self.submit(gradient))
            if len(pending) >= self._window:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()

    def flush(self) -> None:
        """Waits until every step is answered.

        Raises:
            OptserveError: a step failed, and its result was not read.
        """
        self._engine.flush()

    def close(self) -> None:
        """Ends the stream without waiting; steps without an answer may or may not be applied."""
        self._engine.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if kind is None:
                self.flush()
        finally:
            self.close()
