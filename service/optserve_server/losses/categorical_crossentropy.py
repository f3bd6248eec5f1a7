"""Categorical cross-entropy."""

from __future__ import annotations

from dataclasses import dataclass

from optserve_server.losses.crossentropy import Crossentropy


@dataclass(frozen=True)
class CategoricalCrossentropy(Crossentropy):
    """-sum(y*log(q)) along an axis, with y smoothed to y*(1 - e) + e/classes.

    Targets are distributions over the classes, of the prediction's dtype and shape.
    """
