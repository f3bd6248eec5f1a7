"""Where a command finds its server: options, environment, contexts; and mutual TLS."""

from __future__ import annotations

import json
import stat

import pytest

from tests.support.certificates import Authority
from tests.support.server import running_server

NOWHERE = "127.0.0.1:1"


@pytest.fixture
def bare(run, monkeypatch, tmp_path):
    """Runs commands in an environment that names no server, with an empty folder of contexts."""
    for name in ("SERVER", "TOKEN", "CA"):
        monkeypatch.delenv(f"OPTSERVE_{name}")
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    return run


@pytest.fixture
def file(tmp_path):
    """The file of contexts."""
    return tmp_path / "optserve" / "contexts.json"


def options(secure):
    return ["--server", secure.address, "--token", secure.token, "--ca", str(secure.ca)]


def test_options_may_be_before_or_after_the_command(bare, secure):
    assert bare(*options(secure), "session", "ls").status == 0
    assert bare("session", "ls", *options(secure)).status == 0
    assert bare("--server", NOWHERE, "session", "ls", *options(secure)).status == 0


def test_a_context_is_stored_used_and_deleted(bare, secure, file):
    added = bare("context", "add", "there", *options(secure), "--json").json
    assert (added["server"], added["current"], added["has_token"]) == (secure.address, True, True)
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert stat.S_IMODE(file.parent.stat().st_mode) & 0o077 == 0
    assert bare("session", "ls").status == 0
    assert bare("context", "add", "nowhere", "--server", NOWHERE).status == 0
    assert bare("context", "add", "there", "--server", NOWHERE).status == 2
    listed = bare("context", "ls", "--json")
    assert [(c["name"], c["current"], c["has_token"]) for c in listed.json] == [
        ("there", True, True),
        ("nowhere", False, False),
    ]
    assert secure.token not in listed.out + bare("context", "ls").out
    assert bare("context", "use", "nowhere").status == 0
    assert bare("session", "ls", "--timeout", "0.3").status == 5
    assert bare("session", "ls", "--context", "there").status == 0
    assert bare("context", "rm", "nowhere", "--yes", "--json").json == {"deleted": ["nowhere"]}
    assert [c["current"] for c in bare("context", "ls", "--json").json] == [False]
    assert bare("context", "use", "nowhere").status == 2
    assert stat.S_IMODE(file.stat().st_mode) == 0o600


def test_options_take_precedence_over_environment_over_context(bare, secure, monkeypatch):
    bare("context", "add", "there", *options(secure))
    bare("context", "add", "wrong", "--server", NOWHERE, "--token", "wrong", "--ca", str(secure.ca))

    def status(*words):
        return bare("session", "ls", "--timeout", "0.3", *words).status

    assert status() == 0
    monkeypatch.setenv("OPTSERVE_CONTEXT", "wrong")
    assert status() == 5
    assert status("--context", "there") == 0
    monkeypatch.setenv("OPTSERVE_SERVER", secure.address)
    assert status() == 4  # the server of the environment, with the context's token
    monkeypatch.setenv("OPTSERVE_TOKEN", secure.token)
    assert status() == 0
    assert status("--token", "wrong") == 4


def test_the_token_of_the_current_context_is_not_sent_to_another_server(bare, secure):
    """Unless the context is named."""
    bare("context", "add", "there", *options(secure))
    ca = ["--ca", str(secure.ca)]
    assert bare("session", "ls", "--server", secure.address, *ca).status == 4
    assert bare("session", "ls", "--server", secure.address, *ca, "--context", "there").status == 0


def test_the_default_is_the_server_of_this_machine(bare, monkeypatch):
    from optserve.commands import connection

    monkeypatch.setattr(connection, "DEFAULT", connection.ServerSettings(server=NOWHERE))
    assert NOWHERE in bare("session", "ls", "--timeout", "0.3").err


def test_contexts_that_others_may_read_are_rejected(bare, secure, file):
    bare("context", "add", "there", *options(secure))
    file.chmod(0o644)
    refused = bare("session", "ls")
    assert refused.status == 1
    assert f"chmod 600 {file}" in refused.err


@pytest.mark.parametrize(
    "content", ["", "[]", "{}", '{"current": null, "contexts": {"a": {"color": "red"}}}']
)
def test_damaged_contexts_are_reported(bare, file, content):
    file.parent.mkdir()
    file.touch(0o600)
    file.write_text(content)
    assert f"{file} is damaged" in bare("context", "ls").err


def test_paths_in_a_context_do_not_depend_on_the_folder(bare, secure, tmp_path, monkeypatch, file):
    (tmp_path / "ca.pem").write_bytes(secure.ca.read_bytes())
    bare("context", "add", "there", "--server", secure.address, "--token", secure.token, "--ca", "ca.pem")
    assert json.loads(file.read_text())["contexts"]["there"]["ca"] == str(tmp_path / "ca.pem")
    monkeypatch.chdir("/")
    assert bare("session", "ls").status == 0


def test_mutual_tls(bare, tmp_path):
    servers, clients = Authority(), Authority()
    (tmp_path / "servers.pem").write_bytes(servers.pem)
    (tmp_path / "clients.pem").write_bytes(clients.pem)
    own = clients.pair("alice").write(tmp_path, "alice")
    files = servers.pair().write(tmp_path)
    with running_server(**files, tls_client_ca=tmp_path / "clients.pem") as server:
        known = ["--server", server.address, "--ca", str(tmp_path / "servers.pem"), "--timeout", "2"]
        shown = ["--certificate", str(own["tls_certificate"]), "--key", str(own["tls_key"])]
        assert bare("server", "status", *known, *shown).status == 0
        assert bare("server", "status", *known).status == 5


def test_without_tls_a_server_that_needs_it_is_diagnosed(bare, secure):
    ended = bare("session", "ls", "--server", secure.address, "--timeout", "0.5")
    assert (ended.status, "speaks TLS" in ended.err) == (5, True)
    assert bare("session", "ls", "--server", secure.address, "--tls", "--timeout", "0.5").status == 5
