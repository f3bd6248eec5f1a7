"""``optserve watch --mlflow`` against real servers: one value of each scalar for each committed step."""

from __future__ import annotations

import os
import random
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

os.environ.update(MLFLOW_DISABLE_TELEMETRY="true", MLFLOW_ALLOW_FILE_STORE="true")

from mlflow import MlflowClient

import optserve
from optserve.recording.destination import STEP_VALUES
from optserve.recording.mlflow_runs import EXPERIMENT, REPLACED_TAG, MlflowRuns
from optserve.recording.session_recorder import SessionRecorder
from tests.support.server import running_server

pytestmark = pytest.mark.filterwarnings("default")

ONES = {"w": np.ones(3)}
RATE = "step/learning_rate"


@pytest.fixture
def session(client):
    made = client.create_session({"w": np.zeros(3)}, optserve.optimizers.Adam(learning_rate=0.5))
    yield made
    made.delete()


def take_steps(session, count):
    for _ in range(count):
        session.step(ONES)


def record_once(session, folder):
    runs = MlflowRuns(str(folder), session.name)
    recorder = SessionRecorder(session, runs)
    while recorder.copy():
        pass
    return recorder.steps


def read_runs(folder):
    """Runs, the latest first, and the steps of each of their keys."""
    client = MlflowClient(tracking_uri=str(folder))
    experiment = client.get_experiment_by_name(EXPERIMENT)
    for run in client.search_runs([experiment.experiment_id]):
        history = {key: client.get_metric_history(run.info.run_id, key) for key in run.data.metrics}
        yield run, {key: [value.step for value in values] for key, values in history.items()}


def test_each_step_is_one_value_of_each_scalar(session, tmp_path):
    for count in (3, 0, 2):
        take_steps(session, count)
        session.report({"loss": 0.5, "val/accuracy": 1.0, "odd,name//": 2.0})
        assert record_once(session, tmp_path) == count
    ((run, steps),) = read_runs(tmp_path)
    for name in STEP_VALUES:
        assert steps[f"step/{name}"] == [1, 2, 3, 4, 5]
    assert steps["metrics/loss"] == steps["metrics/odd_name__"] == [3, 3, 5]
    assert run.data.metrics["metrics/val/accuracy"] == 1.0
    assert run.data.metrics[RATE] == 0.5
    assert run.info.run_name == session.name.split("/")[1]


def test_scalars_that_a_step_lacks_are_added_alone(session, tmp_path):
    """A process ended while it wrote a step: a store of files has some of its scalars."""
    take_steps(session, 4)
    record_once(session, tmp_path)
    for name in STEP_VALUES[3:]:
        (path,) = tmp_path.glob(f"*/*/metrics/step/{name}")
        path.write_text("".join(path.read_text().splitlines(keepends=True)[:-1]))
    take_steps(session, 1)
    record_once(session, tmp_path)
    ((_, steps),) = read_runs(tmp_path)
    assert all(steps[f"step/{name}"] == [1, 2, 3, 4, 5] for name in STEP_VALUES)


def test_a_restored_session_begins_another_run(tmp_path):
    with running_server(data_dir=tmp_path / "data") as server, optserve.connect(server.address) as client:
        durable = client.create_session({"w": np.zeros(3)}, optserve.optimizers.SGD(learning_rate=0.5))
        take_steps(durable, 2)
        durable.snapshots.create()
        take_steps(durable, 3)
        durable.report({"loss": 1.0})
        record_once(durable, tmp_path / "runs")
        durable.snapshots.restore(2)
        take_steps(durable, 1)
        record_once(durable, tmp_path / "runs")
        take_steps(durable, 1)
        record_once(durable, tmp_path / "runs")
    (new, now), (old, before) = read_runs(tmp_path / "runs")
    assert new.data.tags[REPLACED_TAG] == old.info.run_id
    assert (now[RATE], before[RATE]) == ([1, 2, 3, 4], [1, 2, 3, 4, 5])
    assert "metrics/loss" not in now
    assert old.info.status == "KILLED"


def test_the_command_continues_after_kills(client, address, tmp_path):
    session = client.create_session({"w": np.zeros(3)}, optserve.optimizers.SGD(0.5), session_id="killed")
    words = ["watch", f"--server={address}", f"--mlflow={tmp_path}", "killed"]
    rng = random.Random(3)
    for _ in range(2):
        watch = subprocess.Popen([sys.executable, "-m", "optserve", *words], stdout=subprocess.DEVNULL)
        before = session.step_number
        ends = time.monotonic() + 120
        while count_steps(tmp_path) <= before:
            take_steps(session, 1)
            time.sleep(0.02)
            assert time.monotonic() < ends
        time.sleep(rng.uniform(0, 0.1))
        watch.kill()
        watch.wait(20)
    watch = subprocess.Popen([sys.executable, "-m", "optserve", *words], stdout=subprocess.DEVNULL)
    ends = time.monotonic() + 120
    while count_steps(tmp_path) < session.step_number:
        assert time.monotonic() < ends
        time.sleep(0.1)
    session.delete()
    assert watch.wait(60) == 0
    ((run, steps),) = read_runs(tmp_path)
    assert all(steps[f"step/{name}"] == [*range(1, session.step_number + 1)] for name in STEP_VALUES)
    assert run.info.status == "FINISHED"


def count_steps(folder: Path) -> int:
    """Lines of the file of the scalar that is written last."""
    return sum(
        len(path.read_text().splitlines()) for path in folder.glob(f"*/*/metrics/step/{STEP_VALUES[-1]}")
    )
