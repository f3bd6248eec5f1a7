"""Dockerfile, manifests and their page name what there is. Reads files; needs no engine."""

from __future__ import annotations

import os
import re
import subprocess
import tomllib
from pathlib import Path

import pytest

from optserve_server.config import METRICS_PORT, PREFIX, Settings, load_settings
from tests.image.engines import DATA, OWNER

ROOT = Path(__file__).parents[2]
DOCKERFILE = (ROOT / "Dockerfile").read_text()
FILES = [ROOT / "deploy/compose.yaml", *sorted((ROOT / "deploy/kubernetes").iterdir())]
MANIFESTS = {path.name: path.read_text() for path in FILES}
STATEFUL_SET = MANIFESTS["statefulset.yaml"]
PAGES = {"Dockerfile": DOCKERFILE, "deployment.md": (ROOT / "docs/deployment.md").read_text(), **MANIFESTS}
STATED = (
    *re.findall(r"^(?:ENV)?\s+(OPTSERVE_\w+)=(\S+)", DOCKERFILE, re.MULTILINE),
    *re.findall(r'^\s+(OPTSERVE_\w+): "?([^"\n]+)"?$', MANIFESTS["compose.yaml"], re.MULTILINE),
    *re.findall(r'name: (OPTSERVE_\w+)\n\s+value: "?([^"\n]+)"?', STATEFUL_SET),
)


def test_what_is_stated_is_found() -> None:
    """A pattern that finds nothing would let everything pass."""
    assert len(STATED) == 6 + 2 + 4


@pytest.mark.parametrize(("name", "value"), STATED)
def test_settings_have_allowed_values(name: str, value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, value)
    settings = load_settings({}).model_dump()
    assert str(settings[name.removeprefix(PREFIX).lower()]) in (value, f"{value}.0", str(value == "yes"))


@pytest.mark.parametrize("page", PAGES)
def test_every_setting_named_exists(page: str) -> None:
    known = {PREFIX + name.upper() for name in Settings.model_fields}
    assert set(re.findall(rf"{PREFIX}[A-Z_]+[A-Z]", PAGES[page])) <= known


def test_ports() -> None:
    settings = Settings.model_construct()
    (data_port,) = re.findall(r"OPTSERVE_DATA_PORT=(\d+) ", DOCKERFILE)
    assert f"EXPOSE {settings.port} {data_port} {METRICS_PORT}" in DOCKERFILE
    published = re.findall(r'- "127\.0\.0\.1:(\d+):(\d+)"', MANIFESTS["compose.yaml"])
    assert published == [(port, port) for port in (str(settings.port), data_port, str(METRICS_PORT))]
    ports = re.findall(r"containerPort: (\d+)", STATEFUL_SET)
    assert ports == [str(settings.port), str(METRICS_PORT)]
    assert set(re.findall(r" port: (\d+)", MANIFESTS["service.yaml"])) == set(ports)


def test_the_user_and_what_it_may_write() -> None:
    assert f"USER {OWNER}:{OWNER}" in DOCKERFILE
    assert set(re.findall(r"(?:runAs|fs)(?:User|Group): (\d+)", STATEFUL_SET)) == {str(OWNER)}
    assert f"OPTSERVE_DATA_DIR={DATA}" in DOCKERFILE
    caches = re.findall(r"_CACHE_\w+=(\S+)", DOCKERFILE)
    assert len(caches) == 3
    for path in [DATA, *caches]:
        mount = "/".join(path.split("/")[:4])
        assert f"mountPath: {mount}\n" in STATEFUL_SET
        assert f":{mount}\n" in MANIFESTS["compose.yaml"]


def test_grace_ends_before_the_container_does() -> None:
    def seconds(pattern: str, text: str) -> int:
        (found,) = re.findall(pattern, text)
        return int(found)

    stop = seconds(r"stop_grace_period: (\d+)s", MANIFESTS["compose.yaml"])
    assert seconds(r'GRACE_SECONDS: "(\d+)"', MANIFESTS["compose.yaml"]) < stop
    period = seconds(r"terminationGracePeriodSeconds: (\d+)", STATEFUL_SET)
    assert seconds(r'GRACE_SECONDS\n\s+value: "(\d+)"', STATEFUL_SET) < period


def test_every_kustomized_file_is_there() -> None:
    named = re.findall(r"^  - (\w+\.yaml)$", MANIFESTS["kustomization.yaml"], re.MULTILINE)
    folder = ROOT / "deploy/kubernetes"
    assert {*named, "kustomization.yaml"} == {path.name for path in folder.iterdir()}


def test_what_extras_install_is_pinned() -> None:
    """An image that is built again has the versions that were tested."""
    files = re.findall(r" (\S+) >/constraints.txt", DOCKERFILE)
    assert "--constraint /constraints.txt" in DOCKERFILE
    pins = {
        line.partition("==")[0].lower().replace("-", "_")
        for file in files
        for line in (ROOT / file).read_text().splitlines()
        if "==" in line
    }
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"].values()
    wanted = [*project["dependencies"], *(line for extra in extras for line in extra)]
    names = {re.split(r"[\s<>=\[;~!]", line)[0].lower() for line in wanted} - {"optserve"}
    names = {name.replace("-", "_") for name in names}
    assert names - pins == set()


def test_the_build_gets_only_what_it_needs() -> None:
    """The build context contains what the Dockerfile copies and nothing else."""
    let_in = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    copied = {
        source
        for line in re.findall(r"^COPY (?!--from)(.+)$", DOCKERFILE, re.MULTILINE)
        for source in line.split()[:-1]
    }
    assert all((ROOT / path).exists() for path in let_in | copied)
    assert {path for path in let_in if not path.startswith("clients/python/")} == copied - {"clients/python"}


def test_no_engine(tmp_path: Path) -> None:
    done = subprocess.run(
        ["/bin/sh", ROOT / "deploy/engine.sh"],
        env={**os.environ, "PATH": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "neither docker nor podman nor buildah is there and answers\n"
