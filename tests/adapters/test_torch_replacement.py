"""A session that is replaced is there under its name, whenever its client is killed."""

from __future__ import annotations

import signal
import subprocess
import sys

import pytest
import torch

import optserve
from optserve import errors
from optserve import optimizers as rules
from optserve.torch import RemoteOptimizer
from optserve.torch.session_replacement import STAGING_LEASE, finish_replacement, name_staging
from tests.adapters.killed_replacement import (
    NUMBER_OF_CALLS,
    make_loaded_state,
    make_parameters,
    take_step,
)

pytestmark = pytest.mark.filterwarnings("default")

POINTS = [("before", 1), *(("after", number) for number in range(1, NUMBER_OF_CALLS + 1))]
COMMIT = 6
"""The call that deletes the old session."""


def run_killed(address: str, session_id: str, change: str, when: str, number: int) -> None:
    words = [address, session_id, change, when, str(number)]
    command = [sys.executable, "-m", "tests.adapters.killed_replacement", *words]
    ended = subprocess.run(command, timeout=120, capture_output=True, text=True, check=False)
    assert ended.returncode == -signal.SIGKILL, ended.stderr


def list_complete(client: optserve.Client, session_id: str) -> set[str]:
    """Sessions of this name, or of one that contains it, that the server does not delete automatically."""
    found = {info.name.split("/")[1]: info.spec.lease for info in client.sessions()}
    return {name for name, lease in found.items() if session_id in name and lease != STAGING_LEASE}


@pytest.mark.parametrize(("when", "number"), POINTS)
def test_a_client_that_is_killed_while_it_loads_a_state(client, address, when, number):
    session_id = f"load-{when}-{number}"
    run_killed(address, session_id, "load", when, number)
    is_replaced = when == "after" and number >= COMMIT
    parameters, copies = make_parameters(), make_parameters()
    remote = RemoteOptimizer(
        parameters, rules.Adam(learning_rate=0.1), server=client, session_id=session_id, resume=True
    )
    local = torch.optim.Adam(copies, lr=0.1)
    for step in range(2):  # which the client took, too
        take_step(copies, local, step)
    if is_replaced:
        local.load_state_dict(make_loaded_state())
    assert remote.session.name == f"sessions/{session_id}"
    take_step(copies, local, 5)
    take_step(parameters, remote, 5)
    torch.testing.assert_close(parameters, copies)
    expected = local.state_dict()["state"]
    torch.testing.assert_close(remote.state_dict()["state"], expected)
    assert list_complete(client, session_id) == {session_id}
    remote.session.delete()


@pytest.mark.parametrize(("when", "number"), [("after", number) for number in (4, 5, 6, 7, 8)])
def test_a_client_that_is_killed_while_it_adds_a_group(client, address, when, number):
    """Its first call reads the state, so that each other one has a greater number by one."""
    session_id = f"add-{when}-{number}"
    run_killed(address, session_id, "add", when, number)
    parameters = make_parameters()
    known = parameters if number > COMMIT else parameters[:1]
    remote = RemoteOptimizer(
        known, rules.Adam(learning_rate=0.1), server=client, session_id=session_id, resume=True
    )
    take_step(known, remote, 2)
    assert list(remote.session.layout) == [str(i) for i in range(len(known))]
    assert remote.session.get().step == 3
    assert [int(state["step"]) for state in remote.state_dict()["state"].values()] == [3, 1][: len(known)]
    assert list_complete(client, session_id) == {session_id}
    remote.session.delete()


def test_a_session_of_that_name_is_found_after_a_kill_without_resume(client, address):
    run_killed(address, "found", "load", "after", COMMIT)
    remote = RemoteOptimizer(
        make_parameters(), rules.Adam(learning_rate=0.1), server=client, session_id="found"
    )
    with pytest.raises(errors.AlreadyExists):
        remote.session  # noqa: B018
    assert client.session("found").get().step == 3
    client.session("found").delete()


def test_another_client_that_opens_the_session_meanwhile(client, monkeypatch):
    """It drops what the first one has staged, which then imports its file again."""
    parameters = make_parameters()
    remote = RemoteOptimizer(parameters, rules.Adam(learning_rate=0.1), server=client, session_id="meanwhile")
    take_step(parameters, remote, 0)
    remote.load_state_dict(make_loaded_state())
    delete = optserve.SessionHandle.delete

    def open_and_delete(session: optserve.SessionHandle) -> None:
        if session.name == "sessions/meanwhile":
            finish_replacement(client, "meanwhile")
            with pytest.raises(errors.NotFound):
                client.session(name_staging("meanwhile"))
        delete(session)

    monkeypatch.setattr(optserve.SessionHandle, "delete", open_and_delete)
    assert remote.session.name == "sessions/meanwhile"
    assert remote.session.get().step == 3
    assert list_complete(client, "meanwhile") == {"meanwhile"}
    assert remote.session.spec.lease is None
    delete(remote.session)


def test_a_resumed_session_takes_the_state_that_was_loaded_before_it_was_opened(client):
    parameters = make_parameters()
    first = RemoteOptimizer(
        parameters, rules.Adam(learning_rate=0.1), server=client, session_id="loaded-first"
    )
    take_step(parameters, first, 0)
    again = RemoteOptimizer(
        make_parameters(),
        rules.Adam(learning_rate=0.1),
        server=client,
        session_id="loaded-first",
        resume=True,
    )
    again.load_state_dict(make_loaded_state())
    assert again.session.get().step == 3
    assert again.session.name == "sessions/loaded-first"
    again.session.delete()


def test_ids_of_staged_sessions_are_valid_and_differ():
    names = {name_staging(name) for name in ("a", "b", "a" * 62, "a" * 63)}
    assert len(names) == 4
    assert max(map(len, names)) <= 63
