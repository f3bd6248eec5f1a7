"""Completion of sessions' names, which the script asks the server for."""

from __future__ import annotations

import subprocess
import sys

import pytest

import optserve
from optserve.commands import completion
from tests.integration.commands.conftest import run_command
from tests.support.server import environment


@pytest.fixture
def shell(secure, tmp_path):
    """Runs a script in bash, in which ``optserve`` is this tree's command and completes words."""
    command = tmp_path / "optserve"
    command.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m optserve "$@"\n')
    command.chmod(0o755)
    (tmp_path / "script").write_text(run_command("completion", "bash").out)

    def shell(*words, **variables):
        settings = {**environment(**secure.variables()), **variables}
        settings["PATH"] = f"{tmp_path}:{settings['PATH']}"
        *before, last = words
        ask = (
            f". {tmp_path}/script; COMP_WORDS=(optserve {' '.join(words)}); COMP_CWORD={len(words)};"
            " found=($(complete -p optserve)); function=${found[-2]};"
            f" $function optserve '{last}' '{before[-1]}'; echo ${{COMPREPLY[@]}}"
        )
        done = subprocess.run(
            ["bash", "-c", ask], capture_output=True, text=True, timeout=60, env=settings, check=True
        )
        assert done.stderr == ""
        return done.stdout.split()

    return shell


def test_bash_completes_sessions(shell, session, secure):
    credentials = optserve.tls.credentials(secure.ca)
    name = session.name.removeprefix("sessions/")
    with optserve.connect(secure.address, token=secure.token, credentials=credentials) as client:
        other = client.create_session({"w": [0.0]}, "sgd", session_id=f"{name}-b")
        try:
            assert shell("pull", name[:4]) == [name, f"{name}-b"]
            assert shell("snapshot", "create", f"{name}-") == [f"{name}-b"]
            assert shell("session", "rm", f"{name}-") == [f"{name}-b"]
        finally:
            other.delete()


def test_without_a_server_nothing_is_completed(shell):
    assert shell("pull", "a", OPTSERVE_SERVER="127.0.0.1:1") == []
    assert shell("pull", "a", OPTSERVE_TOKEN="wrong") == []


def test_sessions_are_listed_for_the_script(run, session):
    ended = run("completion", "sessions")
    assert session.name.removeprefix("sessions/") in ended.out.splitlines()
    assert (ended.status, ended.err) == (0, "")
    ended = run("--ca", "missing", "completion", "sessions")
    assert (ended.status, ended.out, ended.err) == (0, "", "")


def test_ids_that_a_shell_would_run_are_left_out(run, monkeypatch):
    class Hostile:
        """A client of a server with such names."""

        def __enter__(self):
            return self

        def __exit__(self, *error):
            return None

        def sessions(self, page_size):
            names = "good", "$(touch ran)", "`touch ran`", "a b", "a;b", "../b'", ""
            return [type("Info", (), {"name": f"sessions/{name}"}) for name in names]

    monkeypatch.setattr(completion, "open_client", lambda options: Hostile())
    assert run("completion", "sessions").out.split() == ["good"]


@pytest.mark.parametrize("name", ["zsh", "tcsh"])
def test_other_shells_ask_as_well(name):
    assert "optserve completion sessions" in run_command("completion", name).out
