"""Keras: an optimizer whose rule runs on a server, and a callback for its monitors (extra ``keras``)."""

from optserve.keras.remote_optimizer import RemoteOptimizer
from optserve.keras.report_metrics import ReportMetrics

__all__ = ["RemoteOptimizer", "ReportMetrics"]
