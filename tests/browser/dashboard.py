"""The dashboard in headless Chromium, with real servers and sessions.

    make test-dashboard

Pictures of it go to build/dashboard/.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np
import pytest
from playwright.sync_api import Browser, Page, Response, expect, sync_playwright

import optserve
from tests.support.server import RunningServer, run_to_end, running_server

ROOT = Path(__file__).parents[2]
PICTURES = ROOT / "build" / "dashboard"
BROWSERS = ("chromium", "chromium-browser", "google-chrome")
MAX_PAGE_BYTES = 200_000
GRADIENT = {"w": np.full((8, 4), 0.5, np.float32)}

expect.set_options(timeout=20_000)


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    found = next((path for name in BROWSERS if (path := shutil.which(name))), None)
    assert found is not None, f"the dashboard's test needs one of {', '.join(BROWSERS)}"
    with (
        sync_playwright() as playwright,
        playwright.chromium.launch(executable_path=found, args=["--no-sandbox"]) as browser,
    ):
        yield browser


@pytest.fixture(params=["light", "dark"])
def page(browser: Browser, request: pytest.FixtureRequest) -> Iterator[Page]:
    """A page whose console has no error but that of a request that was to fail."""
    errors: list[str] = []
    with browser.new_context(color_scheme=request.param, viewport={"width": 1280, "height": 900}) as context:
        page = context.new_page()
        page.on("console", lambda line: errors.append(line.text) if line.type == "error" else None)
        page.on("pageerror", lambda error: errors.append(str(error)))
        yield page
        PICTURES.mkdir(parents=True, exist_ok=True)
        page.screenshot(path=PICTURES / f"{request.node.name}.png", full_page=True)
    assert [text for text in errors if "401 (Unauthorized)" not in text and "REFUSED" not in text] == []


def url(server: RunningServer) -> str:
    (told,) = [line for line in server.log() if line["message"] == "listening"]
    return f"http://127.0.0.1:{told['metrics_port']}/"


def train(session: optserve.SessionHandle, steps: int, step: Callable[..., object] | None = None) -> None:
    for _ in range(steps):
        (step or session.step)(GRADIENT)
        session.report({"loss": 1 / (1 + session.step_number), "accuracy": 1 - 0.5**session.step_number})


def curve_lengths(page: Page) -> dict[str, int]:
    """Points of the curves that are drawn, by the chart's title."""
    found: dict[str, int] = page.evaluate(
        "() => Object.fromEntries([...state.charts].map(([name, {plot}]) => [name, plot.data[0].length]))"
    )
    return found


def wait_for_points(page: Page, name: str, count: int) -> None:
    ends = time.monotonic() + 20
    while (found := curve_lengths(page)).get(name) != count:
        assert time.monotonic() < ends, found
        page.wait_for_timeout(100)


def test_a_session_appears_and_its_curves_grow(page: Page, tmp_path: Path) -> None:
    with running_server(metrics_port=0, data_dir=tmp_path) as server:
        received: dict[str, int] = {}

        def on_response(response: Response) -> None:
            received.setdefault(response.url, len(response.body()))

        page.on("response", on_response)
        page.goto(url(server))
        expect(page.locator("#no-sessions")).to_be_visible()
        with optserve.connect(server.address) as client:
            session = client.create_session(
                {"w": np.zeros((8, 4), np.float32)},
                optserve.optimizers.Adam(0.05),
                session_id="digits",
                gradient=optserve.Gradient(clip=optserve.ClipByGlobalNorm(1.0)),
            )
            train(session, 5)
            expect(page.locator("#name")).to_have_text("digits")
            wait_for_points(page, "loss", 5)
            train(session, 20)
            session.snapshots.create()
            wait_for_points(page, "loss", 25)
            assert curve_lengths(page) == dict.fromkeys(
                ["loss", "accuracy", "learning rate", "gradient norm"], 25
            )
            expect(page.locator("#snapshots")).to_contain_text("asked for")
            expect(page.locator("#facts")).to_contain_text("step25")
            client.create_session({"v": np.zeros(3)}, "sgd", session_id="other")
            expect(page.locator("#sessions button")).to_have_count(2)
            page.locator("#axis").select_option("time")
            wait_for_points(page, "loss", 25)
            page.locator("#filter").fill("oth")
            expect(page.locator("#sessions button")).to_have_count(1)
        hosts = {urlsplit(address).netloc for address in received}
        assert hosts == {urlsplit(url(server)).netloc}
        files = [size for address, size in received.items() if "session" not in address]
        assert sum(files) <= MAX_PAGE_BYTES


def test_a_worker_dies_and_is_shown(page: Page) -> None:
    with running_server(metrics_port=0) as server, optserve.connect(server.address) as client:
        session = client.create_session(
            {"w": np.zeros((8, 4), np.float32)},
            optserve.optimizers.SGD(0.1),
            session_id="shared",
            coordination=optserve.CoordinationAsync(),
        )
        with session.join("steady", lease=30) as steady:
            with optserve.connect(server.address) as other:
                lost = other.session("shared").join("lost", lease=1)
                train(session, 4, steady.step)
                lost.step(GRADIENT)
                page.goto(url(server))
                rows = page.locator("#workers tr")
                expect(rows.filter(has_text="steady")).to_contain_text("ACTIVE")
                expect(rows.filter(has_text="lost")).to_contain_text("ACTIVE")
                lost.close()  # renews its lease no longer, as a process that was killed
            expect(rows.filter(has_text="lost")).to_contain_text("EXPIRED")
            expect(rows.filter(has_text="steady")).to_contain_text("ACTIVE")


def test_a_token_is_asked_for(page: Page, tmp_path: Path) -> None:
    path = tmp_path / "tokens.toml"
    token = run_to_end("token", "--tokens-file", str(path), "--namespace", "red").stdout.strip()
    with running_server(metrics_port=0, tokens_file=path) as server:
        with optserve.connect(server.address, token=token) as client:
            client.create_session({"w": np.zeros(3)}, "sgd", session_id="secret")
        page.goto(url(server))
        expect(page.locator("#login")).to_be_visible()
        assert "secret" not in page.content()
        page.locator("#token").fill("wrong")
        page.locator("#login button").click()
        expect(page.locator("#login-error")).to_contain_text("token")
        assert "secret" not in page.content()
        page.locator("#token").fill(token)
        page.locator("#login button").click()
        expect(page.locator("#name")).to_have_text("secret")
        expect(page.locator("#namespace")).to_have_text("namespace red")


def test_a_server_that_went_away_is_shown(page: Page) -> None:
    with running_server(metrics_port=0) as server:
        page.goto(url(server))
        expect(page.locator("#status")).to_contain_text("updated")
        server.stop()
        expect(page.locator("#status")).to_contain_text("no answer")
