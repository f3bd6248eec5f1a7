"""Alert rules and ServiceMonitor ask for metrics, labels and ports that there are. Needs no Prometheus."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

import optserve
from optserve_server.errors import Reason
from tests.integration.test_operations import page
from tests.support.certificates import Authority
from tests.support.server import running_server

ROOT = Path(__file__).parents[2]
TARGET_LABELS = {"job", "instance"}
"""What Prometheus adds to every sample of a server."""

Labels = Mapping[str, set[str]]
"""Label names of each metric."""

RULES: list[dict[str, Any]] = [
    rule
    for group in yaml.safe_load((ROOT / "deploy/prometheus/alerts.yaml").read_text())["groups"]
    for rule in group["rules"]
]


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Labels]:
    """Metrics of a server with a data directory and TLS, one of whose calls has failed."""
    folder = tmp_path_factory.mktemp("server")
    authority = Authority()
    (folder / "ca.pem").write_bytes(authority.pem)
    files = authority.pair().write(folder)
    with running_server(metrics_port=0, data_dir=folder / "data", **files) as server:
        with optserve.connect(
            server.address, credentials=optserve.tls.credentials(folder / "ca.pem")
        ) as client:
            session = client.create_session({"w": np.zeros(3)}, "sgd")
            session.step({"w": np.ones(3)})
        yield read_labels(page(server, "/metrics")[1])


def read_labels(text: str) -> Labels:
    labels: dict[str, set[str]] = {"up": set()}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            labels.setdefault(sample.name, set()).update(sample.labels)
        if not family.samples:  # its labels are not known before the first sample
            labels.update({f"{family.name}{end}": set() for end in ("", "_total")})
    return labels


def list_mistakes(rule: Mapping[str, Any], served: Labels) -> list[str]:
    """What a rule names that a server does not have."""
    mistakes = []
    expression = rule["expr"]
    metrics = re.findall(r"\b(optserve_\w+|up)\b(?:\{([^}]*)\})?", expression)
    known = set(TARGET_LABELS)
    for name, selectors in metrics:
        if name not in served:
            mistakes.append(f"metric {name}")
            continue
        known |= served[name]
        for label, value in re.findall(r"(\w+)\s*[=!]~?\s*\"([^\"]*)\"", selectors):
            if label not in served[name] | TARGET_LABELS:
                mistakes.append(f"label {label} of {name}")
            if label == "code" and value not in {"OK", *Reason}:
                mistakes.append(f"code {value}")
    kept = known
    for names in re.findall(r"\bby \(([^)]*)\)", expression):
        kept = {name.strip() for name in names.split(",")}
        mistakes += [f"label {name}" for name in sorted(kept - known)]
    for text in rule["annotations"].values():
        mistakes += [
            f"label {name} in the text" for name in re.findall(r"\$labels\.(\w+)", text) if name not in kept
        ]
    return mistakes if metrics else ["no metric"]


@pytest.mark.parametrize("rule", RULES, ids=[rule["alert"] for rule in RULES])
def test_rules_name_what_there_is(rule: Mapping[str, Any], served: Labels) -> None:
    assert list_mistakes(rule, served) == []
    assert set(rule["labels"]) == {"severity"}
    assert rule["labels"]["severity"] in ("warning", "critical")


@pytest.mark.parametrize(
    ("wrong", "mistakes"),
    [
        ("optserve_redy == 0", ["metric optserve_redy"]),
        ("rate(optserve_refusals[5m]) > 0", ["metric optserve_refusals"]),
        ('optserve_refusals_total{scope="server"} > 0', ["label scope of optserve_refusals_total"]),
        ('optserve_calls_total{code="OOPS"} > 0', ["code OOPS"]),
        (
            "sum by (job, namespase) (optserve_held_sessions) > 0",
            ["label namespase", "label instance in the text"],
        ),
        ("1 > 0", ["no metric"]),
    ],
)
def test_a_planted_mistake_is_found(wrong: str, mistakes: list[str], served: Labels) -> None:
    rule = {"expr": wrong, "annotations": {"summary": "{{ $labels.instance }}"}}
    assert list_mistakes(rule, served) == mistakes


def test_every_alert_is_tested_and_explained() -> None:
    names = [rule["alert"] for rule in RULES]
    tests = (ROOT / "deploy/prometheus/alerts_test.yaml").read_text()
    page_text = (ROOT / "docs/how_to/monitoring.md").read_text()
    assert len(names) == len(set(names)) >= 14
    assert [name for name in names if f'{{alertname="{name}"}}' not in tests] == []
    assert re.findall(r"^\| `(Optserve\w+)` \|", page_text, re.MULTILINE) == names
    tested = set(re.findall(r"series: '(\w+)", tests))
    asked = {name for rule in RULES for name in re.findall(r"\b(?:optserve_\w+|up)\b", rule["expr"])}
    assert tested == asked


def test_the_service_monitor_finds_the_servers(served: Labels) -> None:
    manifests = [
        manifest
        for path in (
            "kubernetes/service.yaml",
            "kubernetes/statefulset.yaml",
            "prometheus/kubernetes/service_monitor.yaml",
        )
        for manifest in yaml.safe_load_all((ROOT / "deploy" / path).read_text())
    ]
    (monitor,) = [manifest for manifest in manifests if manifest["kind"] == "ServiceMonitor"]
    wanted = monitor["spec"]["selector"]["matchLabels"].items()
    services = [manifest for manifest in manifests if manifest["kind"] == "Service"]
    (found,) = [service for service in services if wanted <= service["metadata"]["labels"].items()]
    assert found["spec"]["clusterIP"] == "None"
    (endpoint,) = monitor["spec"]["endpoints"]
    (port,) = [port for port in found["spec"]["ports"] if port["name"] == endpoint["port"]]
    (stateful_set,) = [manifest for manifest in manifests if manifest["kind"] == "StatefulSet"]
    (container,) = stateful_set["spec"]["template"]["spec"]["containers"]
    assert port["targetPort"] in {port["name"] for port in container["ports"]}
    assert endpoint["path"] == "/metrics"
    assert "optserve_ready" in served
