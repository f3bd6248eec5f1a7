"""``optserve watch --tensorboard`` against real servers, read by TensorBoard's own readers."""

from __future__ import annotations

import random
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import optserve
from chaos.crash_watch import count_points, list_files, start_watch, tear, wait_until
from optserve.recording.destination import STEP_VALUES
from optserve.recording.event_files import EventFiles
from optserve.recording.session_recorder import SessionRecorder
from tests.support.server import environment, running_server

ONES = {"w": np.ones(3)}
RATE = "step/learning_rate"


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with running_server(data_dir=tmp_path_factory.mktemp("data")) as server:
        yield server


@pytest.fixture
def session(server):
    with optserve.connect(server.address) as client:
        made = client.create_session({"w": np.zeros(3)}, optserve.optimizers.Adam(learning_rate=0.5))
        yield made
        made.delete()


def take_steps(session: optserve.SessionHandle, count: int) -> None:
    for _ in range(count):
        session.step(ONES)


def record_once(session: optserve.SessionHandle, folder: Path) -> int:
    """Records what the history has, as another process would; returns the number of steps."""
    files = EventFiles(folder)
    try:
        recorder = SessionRecorder(session, files)
        while recorder.copy():
            pass
        return recorder.steps
    finally:
        files.close()


def read_scalars(folder: Path) -> dict[str, list[tuple[int, float, float]]]:
    """Step, time and value of each point by tag, as TensorBoard shows them."""
    accumulator = EventAccumulator(str(folder), size_guidance={"scalars": 0, "tensors": 0})
    accumulator.Reload()
    tags = accumulator.Tags()["scalars"]
    return {tag: [(p.step, p.wall_time, p.value) for p in accumulator.Scalars(tag)] for tag in tags}


def steps_of(folder: Path, tag: str = RATE) -> list[int]:
    return [step for step, _, _ in read_scalars(folder)[tag]]


def test_the_points_are_those_of_the_history(session, tmp_path):
    take_steps(session, 5)
    session.report({"loss": 2.5, "val/accuracy": 0.5})
    session.report({"loss": np.inf})
    assert record_once(session, tmp_path) == 5
    found, history = read_scalars(tmp_path), session.history()
    assert found.keys() == {f"step/{name}" for name in STEP_VALUES} | {"metrics/loss", "metrics/val/accuracy"}
    for name in STEP_VALUES:
        points = np.array(found[f"step/{name}"])
        np.testing.assert_array_equal(points[:, 0], history.steps["step"])
        np.testing.assert_allclose(points[:, 1], history.steps["time"].astype(int) / 1e6, rtol=0, atol=1e-6)
        np.testing.assert_allclose(points[:, 2], np.asarray(history.steps[name], float), rtol=1e-6)
    assert [value for _, _, value in found["metrics/loss"]] == [2.5, np.inf]


def test_a_skipped_step_is_no_point(server, tmp_path):
    with optserve.connect(server.address) as client:
        skips = optserve.Gradient(non_finite=optserve.NonFinitePolicy.SKIP)
        session = client.create_session(
            {"w": np.zeros(3)}, optserve.optimizers.SGD(learning_rate=1.0), gradient=skips
        )
        for gradient in (ONES, {"w": np.full(3, np.nan)}, ONES, {"w": np.full(3, np.nan)}):
            session.step(gradient)
            record_once(session, tmp_path)
        assert steps_of(tmp_path) == [1, 2]
        session.delete()


def test_nothing_is_written_twice(session, tmp_path):
    for count in (3, 0, 2, 1):
        take_steps(session, count)
        session.report({"loss": count})
        assert record_once(session, tmp_path) == count
    assert steps_of(tmp_path) == [1, 2, 3, 4, 5, 6]
    assert steps_of(tmp_path, "metrics/loss") == [3, 3, 5, 6]


@pytest.mark.parametrize("seed", range(5))
def test_a_torn_record_is_cut_off_and_written_again(session, tmp_path, seed):
    take_steps(session, 4)
    record_once(session, tmp_path)
    assert tear(tmp_path, random.Random(seed))
    take_steps(session, 2)
    assert record_once(session, tmp_path) == 3
    assert count_points(tmp_path, RATE) == dict.fromkeys(range(1, 7), 1)
    assert steps_of(tmp_path) == [1, 2, 3, 4, 5, 6]


def test_bytes_that_are_no_record_are_cut_off(session, tmp_path):
    take_steps(session, 2)
    record_once(session, tmp_path)
    (path,) = list_files(tmp_path)
    size = path.stat().st_size
    with path.open("ab") as file:
        file.write(bytes(100))  # as after a power failure
    take_steps(session, 1)
    record_once(session, tmp_path)
    assert path.stat().st_size == size
    assert steps_of(tmp_path) == [1, 2, 3]


@pytest.mark.parametrize("more", [0, 1, 2, 5])
def test_steps_that_a_restored_session_has_no_longer_are_dropped(session, tmp_path, more):
    take_steps(session, 2)
    session.snapshots.create()
    session.report({"loss": 1.0})
    take_steps(session, 3)
    session.report({"loss": 2.0})
    record_once(session, tmp_path)
    before = read_scalars(tmp_path)[RATE]
    session.snapshots.restore(2)
    take_steps(session, more)
    session.report({"loss": 3.0})
    record_once(session, tmp_path)
    found = read_scalars(tmp_path)
    assert [step for step, _, _ in found[RATE]] == list(range(1, 3 + more))
    assert found[RATE][:2] == before[:2]
    assert all(time > before[-1][1] for _, time, _ in found[RATE][2:])
    assert [value for _, _, value in found["metrics/loss"]] == [1.0, 3.0]
    take_steps(session, 1)
    assert record_once(session, tmp_path) == 1  # also by the next process


def test_a_session_that_was_restored_while_it_is_recorded(session, tmp_path):
    files = EventFiles(tmp_path)
    recorder = SessionRecorder(session, files)
    take_steps(session, 2)
    session.snapshots.create()
    take_steps(session, 3)
    recorder.copy()
    session.snapshots.restore(2)
    take_steps(session, 3)  # to the same step as before
    recorder.copy()
    files.close()
    assert steps_of(tmp_path) == [1, 2, 3, 4, 5]
    times = session.history().steps["time"].astype(int) / 1e6
    np.testing.assert_allclose(
        [time for _, time, _ in read_scalars(tmp_path)[RATE]], times, rtol=0, atol=1e-6
    )


def test_another_session_of_the_name_takes_the_place_of_the_first(server, tmp_path):
    for count in (5, 2):
        with optserve.connect(server.address) as client:
            made = client.create_session({"w": np.zeros(3)}, optserve.optimizers.SGD(1.0), session_id="again")
            take_steps(made, count)
            record_once(made, tmp_path)
            made.delete()
    assert steps_of(tmp_path) == [1, 2]


def test_a_recorder_that_was_away_has_what_the_history_still_has(session, tmp_path):
    """The history stores the last 4096 steps, and every second, fourth ... of older ones."""
    take_steps(session, 10)
    record_once(session, tmp_path)
    with session.stream(window=64) as stream:
        for _ in range(8000):
            stream.submit(ONES)
        stream.flush()
    record_once(session, tmp_path)
    expected = {*range(1, 11), *(int(step) for step in session.history().steps["step"])}
    assert count_points(tmp_path, RATE) == dict.fromkeys(expected, 1)
    assert len(expected) < 8010
    take_steps(session, 2)
    assert record_once(session, tmp_path) == 2


def test_one_process_at_a_time_writes_a_folder(session, tmp_path):
    first = EventFiles(tmp_path)
    with pytest.raises(RuntimeError, match="in use by another process"):
        EventFiles(tmp_path)
    first.close()
    EventFiles(tmp_path).close()


def test_files_of_other_programs_are_left_alone(session, tmp_path):
    other = tmp_path / "events.out.tfevents.9999999999.host.1"
    other.write_bytes(b"not a record")
    take_steps(session, 1)
    record_once(session, tmp_path)
    assert other.read_bytes() == b"not a record"


def test_the_command_records_every_session_and_continues_after_a_kill(tmp_path):
    """Sessions come and go, the server and the command are killed, the command needs no name."""
    logs, address = tmp_path / "logs", None
    with running_server(data_dir=tmp_path / "data") as server:
        address = server.address
        with optserve.connect(address) as client:
            client.create_session({"w": np.zeros(3)}, optserve.optimizers.SGD(1.0), session_id="a")
        everything = [
            sys.executable,
            "-m",
            "optserve",
            "watch",
            f"--server={address}",
            f"--tensorboard={logs}",
        ]
        watch = subprocess.Popen(everything, env=environment(), stdout=subprocess.DEVNULL)
        with optserve.connect(address) as client:
            take_steps(client.session("a"), 3)
            made = client.create_session({"w": np.zeros(3)}, optserve.optimizers.SGD(1.0), session_id="b")
            take_steps(made, 2)
        wait_until(lambda: count_points(logs / "a", RATE).total() == 3)
        wait_until(lambda: count_points(logs / "b", RATE).total() == 2)
        server.process.kill()
        server.process.wait(20)
    with running_server(data_dir=tmp_path / "data", port=int(address.rsplit(":", 1)[1])) as server:
        with optserve.connect(address) as client:
            take_steps(client.session("b"), 2)
            wait_until(lambda: count_points(logs / "b", RATE).total() == 4)
            watch.kill()
            watch.wait(20)
            take_steps(client.session("a"), 1)
            watch = start_watch(server, logs, "a", "b")
            take_steps(client.session("b"), 1)
            wait_until(lambda: count_points(logs / "b", RATE).total() == 5)
            wait_until(lambda: count_points(logs / "a", RATE).total() == 4)
            client.session("a").delete()
            client.session("b").delete()
        assert watch.wait(60) == 0
    assert (steps_of(logs / "a"), steps_of(logs / "b")) == ([1, 2, 3, 4], [1, 2, 3, 4, 5])
