"""The Python client, whose server dies under it, and its snapshots."""

from __future__ import annotations

import io
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import fsspec
import numpy as np
import pytest
import safetensors.numpy

import optserve
from tests.recovery.test_durability import VALUES, gradient, kill
from tests.support.server import RunningServer, running_server

ADAM = optserve.optimizers.Adam(learning_rate=0.01)


@contextmanager
def serving(root: Path) -> Iterator[RunningServer]:
    """A server at the same address in every life."""
    settings = {"data_dir": root / "data", "unix_socket": root / "socket"}
    with running_server("numpy", **settings) as server:
        yield server


@pytest.fixture
def session(tmp_path: Path) -> Iterator[optserve.SessionHandle]:
    with serving(tmp_path), optserve.connect(f"unix:{tmp_path}/socket") as client:
        session = client.create_session(VALUES, ADAM, session_id="a")
        for number in range(3):
            session.step(gradient(number))
        yield session


def test_steps_go_on_over_a_kill(tmp_path: Path) -> None:
    """The client notices nothing: each step is applied once, whatever was answered before the kill."""
    expected: dict[str, bytes] = {}
    killing = threading.Event()
    steps: list[int] = []

    def train(session: optserve.SessionHandle) -> None:
        for number in range(60):
            if number == 20:
                killing.set()
            steps.append(session.step(gradient(number)).step)

    patient = optserve.Retry(attempts=60)  # a busy machine takes its time to start the next server
    with (
        serving(tmp_path) as server,
        optserve.connect(f"unix:{tmp_path}/socket", retry=patient) as client,
    ):
        session = client.create_session(VALUES, ADAM)
        thread = threading.Thread(target=train, args=(session,))
        thread.start()
        assert killing.wait(30)
        kill(server)
        with serving(tmp_path):
            thread.join(60)
            assert steps == list(range(1, 61))
            values = session.pull()
            calm = client.create_session(VALUES, ADAM)
            for number in range(60):
                calm.step(gradient(number))
            expected = {name: value.tobytes() for name, value in calm.pull().items()}
            assert {name: value.tobytes() for name, value in values.items()} == expected
            assert session.get().durable_step == 60


def test_snapshots_to_go_back_to(session: optserve.SessionHandle) -> None:
    made = session.snapshots.create()
    assert (made.step, made.kept, made.name) == (3, True, f"{session.name}/snapshots/3")
    before = session.pull()
    session.step(gradient(3))
    assert [snapshot.step for snapshot in session.snapshots.list()] == [3, 0]
    with pytest.raises(optserve.errors.StepMismatch):
        session.snapshots.restore(3, expected_step=3)
    assert session.snapshots.restore(3, expected_step=4).step == session.step_number == 3
    assert session.pull()["w"].tobytes() == before["w"].tobytes()
    assert session.step(gradient(4)).step == 4
    session.snapshots.restore(made, weights_only=True)
    assert session.get().step == 4
    assert session.pull()["w"].tobytes() == before["w"].tobytes()
    session.snapshots.create()  # the server itself needs one, and now not that one
    session.snapshots.delete(made)
    with pytest.raises(optserve.errors.NotFound):
        session.snapshots.restore(3)


def test_files_of_ones_own(session: optserve.SessionHandle, tmp_path: Path) -> None:
    path, file = tmp_path / "a.safetensors", io.BytesIO()
    url = "memory://bucket/a.safetensors"
    for place in (path, file, url):
        assert session.snapshots.export(place) == 3
    with fsspec.open(url, "rb") as opened:
        assert opened.read() == file.getvalue() == path.read_bytes()
    assert [p.name for p in tmp_path.glob("*a.safetensors*")] == ["a.safetensors"]
    w = session.pull()["w"]
    assert safetensors.numpy.load_file(path)["parameter/w"].tobytes() == w.tobytes()
    file.seek(0)
    with optserve.connect(f"unix:{tmp_path}/socket") as client:
        for place in (str(path), file, url):
            copy = client.import_session(place)
            assert (copy.step_number, copy.spec) == (3, session.spec)
            assert copy.pull()["w"].tobytes() == w.tobytes()
        with pytest.raises(optserve.errors.InvalidArgument) as caught:
            client.import_session(io.BytesIO(path.read_bytes()[:-1]))
        assert caught.value.reason is optserve.Reason.SNAPSHOT_MALFORMED
        forked = client.session(session.snapshots.fork(session_id="b").name)
    assert forked.name == "sessions/b"


def test_a_large_session_is_sent_in_chunks(session: optserve.SessionHandle, tmp_path: Path) -> None:
    values = {"w": np.linspace(0, 1, 1_000_000, dtype=np.float32)}
    with optserve.connect(f"unix:{tmp_path}/socket") as client:
        mode = optserve.Durability(mode=optserve.DurabilityMode.SNAPSHOT)
        large = client.create_session(values, ADAM, durability=mode)
        large.step({"w": values["w"]})
        path = tmp_path / "large.safetensors"
        large.snapshots.export(path)
        assert path.stat().st_size > 12_000_000
        copy = client.import_session(path, progress=False)
        assert copy.pull()["w"].tobytes() == large.pull()["w"].tobytes()


def test_a_failed_export_leaves_what_was_there(session: optserve.SessionHandle, tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    path.write_bytes(b"before")
    with pytest.raises(optserve.errors.NotFound):
        session.snapshots.export(path, step=77)
    assert path.read_bytes() == b"before"
    with pytest.raises(OSError, match="No such file"):
        session.snapshots.export(tmp_path / "nowhere" / "a.safetensors")
