"""Callback of Keras that reports metrics to a session."""

from __future__ import annotations

from typing import Any

import keras

from optserve.keras.remote_optimizer import RemoteOptimizer
from optserve.metrics import MetricsReport


class ReportMetrics(keras.callbacks.Callback):  # type: ignore[misc]  # Keras is optional
    """Reports the metrics of each epoch to the session, whose monitors decide what follows.

    The session has the monitors of its specification: give `RemoteOptimizer` ``reduce_on_plateau`` and
    ``early_stopping``. The first lowers the learning rate on the server; the callback writes the rate of the
    next step into ``logs["learning_rate"]``. When the second ends the training, ``model.stop_training`` is
    set, and the model takes over the best parameters if they were restored.

    Attributes:
        last_report: the answer to the last report; None before it.

    Raises:
        TypeError: the model's optimizer is no `RemoteOptimizer`.
        OptserveError: the server rejects a report, or could not be reached.
    """

    def __init__(self) -> None:
        super().__init__()
        self.last_report: MetricsReport | None = None

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        optimizer = self.model.optimizer
        optimizer = getattr(optimizer, "inner_optimizer", optimizer)  # of a LossScaleOptimizer
        if not isinstance(optimizer, RemoteOptimizer):
            raise TypeError(f"the model's optimizer is {optimizer!r}, but must be a RemoteOptimizer")
        logs = {} if logs is None else logs
        values = {name: float(value) for name, value in logs.items() if name != "learning_rate"}
        report = self.last_report = optimizer.session.report(values)
        logs["learning_rate"] = report.learning_rate
        if report.restored:
            optimizer.pull()
        if report.stopped:
            self.model.stop_training = True
