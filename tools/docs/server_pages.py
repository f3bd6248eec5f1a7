"""Settings and metrics as pages, asked of a running server."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from prometheus_client.parser import text_string_to_metric_families

import optserve

SERVER = [sys.executable, "-m", "optserve_server"]
START_SECONDS = 60.0

_OPTION = re.compile(r"^\s+--(?P<flag>[a-z-]+) \S+\s+(?P<text>.*?)(?: \(default:? (?P<default>[^)]*)\))?$")


def settings_page() -> str:
    """All settings, from the server's ``--help``.

    Raises:
        RuntimeError: the help has another form than this function reads.
    """
    environment = {**os.environ, "COLUMNS": "10000"}
    text = subprocess.run(
        # After a setting, the help is that of serving.
        [*SERVER, "--port", "0", "--help"],
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    unwrapped = re.sub(r"\n {20,}", "  ", text)
    rows = [found for line in unwrapped.splitlines() if (found := _OPTION.match(line))]
    if len(rows) < 20:
        raise RuntimeError(f"optserve-server --help must list its settings one a line, got:\n{text}")
    lines = [
        "# Settings",
        "",
        "Each is a flag, an environment variable and a key of the TOML file that `--config` names. Flags",
        "take precedence over the environment, and the environment over the file. A size is a number of",
        "bytes with KiB, MiB, GiB or nothing behind it.",
        "",
        "| key | environment | default | meaning |",
        "|---|---|---|---|",
    ]
    for row in rows:
        key = row["flag"].replace("-", "_")
        default = f"`{row['default']}`" if row["default"] else ""
        lines.append(
            f"| `{key}` | `OPTSERVE_{key.upper()}` | {default} | {row['text'].replace('|', chr(92) + '|')} |"
        )
    return "\n".join(lines) + "\n"


def metrics_page() -> str:
    """All metrics of a server that has taken a journalled step."""
    lines = [
        "# Metrics",
        "",
        "`/metrics` has these for Prometheus. Counters end in `_total`; times are in seconds, sizes in",
        "bytes. [Monitoring](../how_to/monitoring.md) says which to watch.",
        "",
        "| metric | type | labels | meaning |",
        "|---|---|---|---|",
    ]
    for family in text_string_to_metric_families(_scrape()):
        labels = {label for sample in family.samples for label in sample.labels} - {"le"}
        name = family.name + ("_total" if family.type == "counter" else "")
        shown = ", ".join(f"`{label}`" for label in sorted(labels))
        lines.append(f"| `{name}` | {family.type} | {shown} | {family.documentation} |")
    return "\n".join(lines) + "\n"


def _scrape() -> str:
    """The metrics of a server of its own, on free loopback ports."""
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "log"
        command = [*SERVER, "--port", "0", "--metrics-port", "0", "--data-dir", f"{folder}/data"]
        command += ["--backend", "numpy"]
        environment = {name: value for name, value in os.environ.items() if not name.startswith("OPTSERVE_")}
        with log.open("w") as output:
            server = subprocess.Popen(command, stderr=output, stdout=output, env=environment)
        try:
            facts = next(facts for facts in _facts(server, log) if "metrics_port" in facts)
            with optserve.connect(f"127.0.0.1:{facts['port']}") as client:
                session = client.create_session({"w": np.zeros(2)}, optserve.optimizers.Adam())
                session.step({"w": np.ones(2)})
            with urllib.request.urlopen(
                f"http://127.0.0.1:{facts['metrics_port']}/metrics", timeout=10
            ) as page:
                return str(page.read().decode())
        finally:
            server.terminate()
            server.wait(START_SECONDS)


def _facts(server: subprocess.Popen[bytes], log: Path) -> Iterator[dict[str, object]]:
    """The lines of the log as they come.

    Raises:
        RuntimeError: the server ends, or says nothing in time.
    """
    deadline, read = time.monotonic() + START_SECONDS, 0
    while server.poll() is None and time.monotonic() < deadline:
        lines = log.read_text().splitlines()
        for line in lines[read:]:
            yield json.loads(line)
        read = len(lines)
        time.sleep(0.05)
    raise RuntimeError(f"the server for the metrics' page did not start: {log.read_text()}")
