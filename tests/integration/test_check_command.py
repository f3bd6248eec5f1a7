"""``optserve-server check`` before a start: each area is found good, and found wrong."""

from __future__ import annotations

import json
import resource
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from optserve_server import app
from optserve_server.__main__ import main
from optserve_server.commands import start_checks
from optserve_server.commands.check import AREAS
from tests.support.certificates import Authority, Pair
from tests.support.disks import small_filesystem
from tests.support.server import run_to_end

Result = tuple[str, str]


def check(capsys: pytest.CaptureFixture[str], *areas: str, **settings: object) -> tuple[int, list[Result]]:
    """Exit status, and status and text of each result."""
    flags = [f"--{name.replace('_', '-')}={value}" for name, value in settings.items()]
    status = main(["check", "--json", *(f"--only={area}" for area in areas), *flags])
    printed = json.loads(capsys.readouterr().out)
    assert printed["ok"] == (status == 0)
    assert {result["area"] for result in printed["checks"]} <= set(areas)
    return status, [(result["status"], result["text"]) for result in printed["checks"]]


def test_a_table_of_every_area_and_no_trace(tmp_path: Path) -> None:
    """Run as operators do."""
    flags = ["--port=0", "--metrics-port=0", "--backend=numpy", f"--data-dir={tmp_path / 'data'}"]
    done = run_to_end("check", *flags)
    assert (done.returncode, done.stderr) == (0, "")
    lines = [line.split() for line in done.stdout.splitlines()]
    assert list(dict.fromkeys(line[0] for line in lines)) == list(AREAS)
    assert {line[1] for line in lines} <= {"ok", "warning", "skipped"}
    assert list(tmp_path.iterdir()) == []
    done = run_to_end("check", *flags, *(f"--skip={area}" for area in AREAS if area != "backend"))
    assert done.stdout.split()[:3] == ["backend", "ok", "numpy"]
    assert run_to_end("check", "--max-sessions=many").returncode == 2


def test_settings_that_contradict_each_other(capsys: pytest.CaptureFixture[str]) -> None:
    assert check(capsys, "settings")[0] == 0
    for wrong, text in (
        ({"host": "0.0.0.0"}, "there is no TLS"),
        ({"durability": "journal"}, "needs data_dir"),
        ({"tls_key": "k"}, "TLS needs tls_certificate and tls_key"),
        ({"max_connections": 10**9}, "max_connections is 1000000000, but must be at most"),
    ):
        status, [(failed, found)] = check(capsys, "settings", **wrong)
        assert (status, failed, text in found) == (1, "failed", True)


def test_ports_that_are_taken(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken, socket.socket(socket.AF_UNIX) as unix:
        port, path = taken.getsockname()[1], tmp_path / "socket"
        unix.bind(str(path))
        unix.listen()
        free = {"port": 0, "metrics_port": "off"}
        assert check(capsys, "ports", **free) == (0, [("ok", "port is any free one at 127.0.0.1")])
        for setting in ("port", "data_port", "metrics_port"):
            status, results = check(capsys, "ports", **{**free, setting: port})
            text = f"{setting} {port} at 127.0.0.1 cannot be bound: Address already in use"
            assert (status, results[-1]) == (1, ("failed", text))
        status, [(failed, text)] = check(capsys, "ports", tcp="no", metrics_port="off", unix_socket=path)
        assert (status, failed, text) == (1, "failed", f"unix_socket {path} is in use")
    status, [(found, _)] = check(capsys, "ports", tcp="no", metrics_port="off", unix_socket=path)
    assert (status, found) == (0, "ok")  # left behind by a server that was killed
    assert check(capsys, "ports", host="no-such-host.invalid", **free)[0] == 1
    assert check(capsys, "ports", tcp="no", metrics_port="off", unix_socket=Path(__file__))[0] == 1


def test_certificates(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    authority, other = Authority(), Authority("other")
    pair = authority.pair()
    status, [(found, text)] = check(capsys, "tls", **pair.write(tmp_path))
    assert (status, found, text.endswith("for 89 days")) == (0, "ok", True)
    assert check(capsys, "tls") == (0, [("skipped", "no TLS")])
    soon = authority.pair(days=20).write(tmp_path, "soon")
    assert check(capsys, "tls", **soon)[1][0][0] == "warning"
    chain = Pair(pair.certificate + authority.pem, pair.key).write(tmp_path, "chain")
    assert check(capsys, "tls", **chain)[0] == 0
    (tmp_path / "ca.pem").write_bytes(authority.pem)
    assert check(capsys, "tls", **chain, tls_client_ca=tmp_path / "ca.pem")[1][1][0] == "ok"
    (tmp_path / "readable.key").write_bytes(pair.key)
    (tmp_path / "readable.key").chmod(0o644)
    for wrong, text in (
        (authority.pair(days=-1).write(tmp_path, "expired"), "has expired on"),
        (Pair(pair.certificate, other.pair().key).write(tmp_path, "swapped"), "cannot use"),
        (Pair(pair.certificate + other.pem, pair.key).write(tmp_path, "foreign"), "unable to get"),
        ({**chain, "tls_certificate": tmp_path / "none.pem"}, "No such file"),
        ({**chain, "tls_client_ca": tmp_path / "none.pem"}, "No such file"),
        ({**chain, "tls_key": tmp_path / "readable.key"}, "every user may read"),
    ):
        status, [(failed, found)] = check(capsys, "tls", **wrong)
        assert (status, failed) == (1, "failed"), found
        assert text in found


def test_tokens(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    path = tmp_path / "tokens.toml"
    assert check(capsys, "tokens", allow_unauthenticated="no")[0] == 1
    assert check(capsys, "tokens", tokens_file=path)[0] == 1
    for name, days in (("laptop", "10"), ("old", "-1")):
        made = main(
            [
                "token",
                f"--tokens-file={path}",
                "--namespace=alice",
                f"--name={name}",
                f"--expires-in-days={days}",
            ]
        )
        token = capsys.readouterr().out.strip()
        assert made == 0
        status, [(found, text)] = check(capsys, "tokens", tokens_file=path)
        assert (status, found) == (0, "ok" if name == "laptop" else "warning")
        assert token not in text
    assert text == f"{path} has 2 tokens of 1 namespaces; expired are old"
    path.chmod(0o604)
    assert "every user may read" in check(capsys, "tokens", tokens_file=path)[1][0][1]


def test_a_gpu_that_is_asked_for(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    from optserve_server.arrays import backend_selection

    assert check(capsys, "backend", backend="numpy")[1][0][0] == "ok"
    monkeypatch.setattr(backend_selection, "gpu_answers", lambda: False)
    assert check(capsys, "backend", backend="cupy") == (
        1,
        [("failed", "backend cupy needs the extra [gpu] and an NVIDIA GPU that answers")],
    )


@pytest.fixture
def few_descriptors() -> Iterator[None]:
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (before[0] // 2, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, before)


def test_limits(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, few_descriptors: None
) -> None:
    """The soft limit is raised to the hard one, as by a start."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    status, results = check(capsys, "limits")
    assert (status, [status for status, _ in results]) == (0, ["ok", "ok"])
    assert resource.getrlimit(resource.RLIMIT_NOFILE)[0] == min(hard, app.MAX_DESCRIPTORS)
    monkeypatch.setattr(start_checks, "MIN_DESCRIPTORS", 1 << 40)
    status, results = check(capsys, "limits", max_memory_bytes=2**60)
    assert (status, [status for status, _ in results]) == (0, ["warning", "warning"])


def test_a_disk(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert check(capsys, "disk")[1][0][0] == "skipped"
    data = tmp_path / "data"
    assert [found for found, _ in check(capsys, "disk", data_dir=data)[1]] == ["warning", "ok"]
    data.mkdir(0o700)
    assert [found for found, _ in check(capsys, "disk", data_dir=data)[1]] == ["ok"]
    data.chmod(0o755)
    status, results = check(capsys, "disk", data_dir=data)
    assert (status, results[0]) == (
        0,
        ("warning", f"other users may enter {data} (mode 0755): chmod 0700 {data}"),
    )
    status, results = check(capsys, "disk", data_dir=data, journal_bytes=2**61)
    assert (status, results[-1][0], "may need" in results[-1][1]) == (0, "warning", True)
    (tmp_path / "file").touch()
    assert check(capsys, "disk", data_dir=tmp_path / "file")[0] == 1
    with small_filesystem("tmpfs") as small:
        status, results = check(capsys, "disk", data_dir=small)
        assert (status, results[-1]) == (1, ("failed", f"12 MiB are free at {small}"))
