"""The dashboard's pages over HTTP; tests/browser looks at them in a browser."""

from __future__ import annotations

import json
import math
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import optserve
from tests.support.server import RunningServer, run_to_end, running_server

ONES = {"w": np.ones((2, 3), np.float32)}


def ask(server: RunningServer, path: str, **headers: str) -> tuple[int, dict[str, str], bytes]:
    (told,) = [line for line in server.log() if line["message"] == "listening"]
    port = told["metrics_port"]
    request = urllib.request.Request(f"http://127.0.0.1:{port}{path}", headers=headers)
    try:
        with urllib.request.urlopen(request, timeout=20) as answer:
            return answer.status, dict(answer.headers), answer.read()
    except urllib.error.HTTPError as error:
        return error.code, dict(error.headers), error.read()


def read(server: RunningServer, path: str, **headers: str) -> Any:
    status, _, body = ask(server, path, **headers)
    assert status == 200, body
    return json.loads(body)


@pytest.fixture(scope="module")
def server_with_pages() -> Iterator[RunningServer]:
    with running_server(metrics_port=0) as server:
        yield server


def test_files_are_small_and_ask_no_other_host(server_with_pages: RunningServer) -> None:
    weight = 0
    for path in ("/", "/dashboard/dashboard.js", "/dashboard/dashboard.css", "/dashboard/uplot.js",
                 "/dashboard/uplot.css", "/dashboard/icon.svg"):  # fmt: skip
        status, headers, body = ask(server_with_pages, path)
        assert status == 200
        assert headers["Content-Security-Policy"] == "default-src 'self'; frame-ancestors 'none'"
        assert headers["X-Content-Type-Options"] == "nosniff"
        weight += len(body)
    assert weight <= 200_000


def test_sessions_as_json(server_with_pages: RunningServer) -> None:
    with optserve.connect(server_with_pages.address) as client:
        session = client.create_session(
            ONES,
            optserve.optimizers.Adam(0.5),
            session_id="a-1",
            coordination=optserve.CoordinationAsync(),
        )
        with session.join("one") as member:
            for _ in range(3):
                member.step(ONES)
            session.report({"loss": math.nan, "accuracy": 0.5})
            (row,) = read(server_with_pages, "/dashboard/sessions")["sessions"]
            assert (row["id"], row["optimizer"], row["state"]) == ("a-1", "adam", "ready")
            assert (row["step"], row["elements"], row["workers"]) == (3, 6, 1)
            assert (row["learning_rate"], row["gradient_norm"]) == (0.5, pytest.approx(math.sqrt(6)))
            shown = read(server_with_pages, "/dashboard/session?id=a-1")
        assert shown["steps"]["step"] == [1, 2, 3]
        assert shown["steps"]["time"] == sorted(shown["steps"]["time"])
        assert shown["metrics"]["accuracy"]["value"] == [0.5]
        assert shown["metrics"]["loss"]["value"] == [None]
        assert shown["outcomes"] == {"APPLIED": 3, "SKIPPED": 0}
        assert shown["spec"]["optimizer"]["adam"]["learning_rate"] == 0.5
        (one,) = shown["members"]
        assert (one["worker"], one["state"], one["contributions"]) == ("one", "ACTIVE", 3)
        (one,) = read(server_with_pages, "/dashboard/session?id=a-1")["members"]
        assert one["state"] == "LEFT"
        session.delete()
    assert ask(server_with_pages, "/dashboard/session?id=a-1")[0] == 404


def test_curves_have_a_bounded_number_of_points(server_with_pages: RunningServer) -> None:
    with optserve.connect(server_with_pages.address) as client:
        session = client.create_session({"w": np.ones(1)}, optserve.optimizers.SGD(0.1), session_id="long")
        with session.stream() as stream:
            for _ in range(3000):
                stream.submit({"w": np.ones(1)})
        steps = read(server_with_pages, "/dashboard/session?id=long")["steps"]["step"]
        assert (len(steps), steps[0], steps[-1]) == (1000, 1, 3000)
        session.delete()


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("127.0.0.1:9464", 200),
        ("[::1]:9464", 200),
        ("localhost", 200),
        ("attacker.example:9464", 403),
        ("localhost.attacker.example", 403),
        ("", 403),
    ],
)
def test_a_page_of_another_site_reads_nothing(
    server_with_pages: RunningServer, host: str, status: int
) -> None:
    for path in ("/dashboard/sessions", "/dashboard/session?id=a"):
        found, _, body = ask(server_with_pages, path, Host=host)
        assert found == (404 if status == 200 and "id=" in path else status), body


def test_with_tokens_a_caller_sees_its_namespace(tmp_path: Path) -> None:
    path = tmp_path / "tokens.toml"
    tokens = {}
    for name in ("red", "blue"):
        made = run_to_end("token", "--tokens-file", str(path), "--namespace", name)
        tokens[name] = made.stdout.strip()
    with running_server(tokens_file=path, metrics_port=0) as server:
        for name, token in tokens.items():
            with optserve.connect(server.address, token=token) as client:
                client.create_session(ONES, "sgd", session_id=f"of-{name}")
        for wrong in ({}, {"Authorization": "Bearer nonsense"}, {"Authorization": tokens["red"]}):
            for place in ("/dashboard/sessions", "/dashboard/session?id=of-red"):
                status, _, body = ask(server, place, **wrong)
                assert status == 401
                assert b"of-red" not in body
        for name, token in tokens.items():
            bearer = {"Authorization": f"Bearer {token}", "Host": "optserve.example"}
            found = read(server, "/dashboard/sessions", **bearer)
            assert found["namespace"] == name
            assert [one["id"] for one in found["sessions"]] == [f"of-{name}"]
        assert ask(server, "/dashboard/session?id=of-blue", Authorization=f"Bearer {tokens['red']}")[0] == 404


@pytest.mark.parametrize(
    ("settings", "status"),
    [
        ({"metrics_host": "0.0.0.0"}, 404),
        ({"metrics_host": "0.0.0.0", "dashboard": "yes"}, 200),
        ({"dashboard": "no"}, 404),
    ],
)
def test_beyond_loopback_it_is_off_unless_asked_for(settings: dict[str, str], status: int) -> None:
    with running_server(metrics_port=0, **settings) as server:
        assert ask(server, "/dashboard/sessions")[0] == status
        assert ask(server, "/")[0] == status
        assert ask(server, "/healthz")[0] == 200


def test_snapshots_and_sessions_on_disk_are_listed(tmp_path: Path) -> None:
    with (
        running_server(metrics_port=0, data_dir=tmp_path) as server,
        optserve.connect(server.address) as client,
    ):
        lease = optserve.Lease(seconds=0.3, on_expiry=optserve.ExpiryAction.EVICT)
        session = client.create_session(ONES, "sgd", session_id="a", lease=lease)
        session.step(ONES)
        session.snapshots.create()
        newest = read(server, "/dashboard/session?id=a")["snapshots"][0]
        assert (newest["step"], newest["kept"]) == (1, True)
        assert newest["byte_count"] > 100
        ends = time.monotonic() + 30
        while (shown := read(server, "/dashboard/session?id=a"))["state"] != "on disk":
            assert time.monotonic() < ends
            time.sleep(0.1)
        assert shown["state"] == "on disk"
        assert shown["step"] == 1
