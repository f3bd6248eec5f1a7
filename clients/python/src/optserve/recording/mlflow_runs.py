"""Runs of MLflow."""

from __future__ import annotations

import os
import posixpath
from collections.abc import Mapping
from itertools import islice
from typing import Any

import numpy as np
import numpy.typing as npt
from mlflow import MlflowClient
from mlflow.entities import Metric, Run
from mlflow.utils.validation import MAX_METRICS_PER_BATCH

from optserve.recording.destination import (
    IDENTITY,
    STEP_VALUES,
    STEPS,
    IdentityIndex,
    find_series,
    identify,
    list_scalars,
)

EXPERIMENT = "optserve"
"""Name of the experiment that has the runs."""

SESSION_TAG, REPLACED_TAG = "optserve.session", "optserve.replaces"
"""Tags of a run: the session's name, and the run that has steps which the session has no longer."""


class MlflowRuns:
    """A run of MLflow for a session; a further one for each time that the session is restored.

    MLflow cannot remove values of a run. So a restored session ends its run with the status KILLED, and
    begins another one with the history that it has now.

    A store of files writes a step's scalars one by one, and a process may end between them. So each scalar of
    a point is written only if the run has not got it.

    Args:
        uri: tracking URI, or a directory.
        session: resource name of the session.

    Raises:
        MlflowException: the store cannot be used.
    """

    tick_us = 1000

    def __init__(self, uri: str, session: str) -> None:
        if "://" not in uri or uri.startswith("file:"):
            # MLflow refuses directories without this; here the user named one.
            os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")
        self._client = MlflowClient(tracking_uri=uri)
        self._session = session
        found = self._client.get_experiment_by_name(EXPERIMENT)
        self._experiment = found.experiment_id if found else self._client.create_experiment(EXPERIMENT)
        self._run_id = (self._find_run() or self._create_run({})).info.run_id
        self._read()

    def read_identities(self, series: str) -> npt.NDArray[Any]:
        """Returns the recorded points of a series."""
        return self._identities.read(_series_of(series))

    def write(self, series: str, points: npt.NDArray[Any]) -> None:
        """Adds points."""
        identities = identify(points, self.tick_us)
        scalars = iter(
            Metric(key, value, int(identity["time"]), int(identity["step"]))
            for identity, point in zip(identities, points, strict=True)
            for key, value in ((_key_of(tag), value) for tag, value in list_scalars(series, point).items())
            if (key, identity.item()) not in self._partial
        )
        while batch := list(islice(scalars, MAX_METRICS_PER_BATCH)):
            self._client.log_batch(self._run_id, metrics=batch, synchronous=True)
        self._identities.add(_series_of(series), identities)

    def roll_back(self, step: int) -> None:
        """Begins another run."""
        replaced, self._run_id = self._run_id, self._create_run({REPLACED_TAG: self._run_id}).info.run_id
        self._client.set_terminated(replaced, status="KILLED")
        self._read()

    def close(self) -> None:
        """Ends the run."""
        self._client.set_terminated(self._run_id)

    def _create_run(self, tags: Mapping[str, str]) -> Run:
        return self._client.create_run(
            self._experiment,
            tags={SESSION_TAG: self._session, **tags},
            run_name=self._session.rsplit("/", 1)[-1],
        )

    def _find_run(self) -> Run | None:
        """The session's run that no other one replaces."""
        runs = self._client.search_runs([self._experiment], f"tags.`{SESSION_TAG}` = '{self._session}'")
        replaced = {run.data.tags.get(REPLACED_TAG) for run in runs}
        return next((run for run in runs if run.info.run_id not in replaced), None)

    def _read(self) -> None:
        """Reads which points the run has; those without one of their scalars are written again."""
        self._identities = IdentityIndex()
        self._partial: set[tuple[str, tuple[int, int]]] = set()
        keys_by_series: dict[str, list[str]] = {}
        for key in self._client.get_run(self._run_id).data.metrics:
            keys_by_series.setdefault(find_series(key), []).append(key)
        for series, keys in keys_by_series.items():
            written = {key: self._read_key(key) for key in keys}
            complete = set.intersection(*written.values())
            if series == STEPS and len(keys) < len(STEP_VALUES):
                complete = set()
            self._identities.add(series, np.array(sorted(complete), IDENTITY))
            self._partial |= {(key, point) for key in keys for point in written[key] - complete}

    def _read_key(self, key: str) -> set[tuple[int, int]]:
        """The identities of the values of a key."""
        return {(value.step, value.timestamp) for value in self._client.get_metric_history(self._run_id, key)}


def _key_of(tag: str) -> str:
    """The key of a tag. MLflow takes letters, digits and ``_-. :/`` that are a normal path."""
    key = "".join(letter if letter.isalnum() or letter in "_-. :/" else "_" for letter in tag)
    kind, name = key.split("/", 1)
    return key if posixpath.normpath(key) == key else f"{kind}/{name.replace('/', '_')}"


def _series_of(series: str) -> str:
    """The name of a series in its keys."""
    return series if series == STEPS else find_series(_key_of(f"metrics/{series}"))
