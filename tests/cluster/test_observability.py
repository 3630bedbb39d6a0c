"""Dashboards and alerts ask only for metrics that exist, under the names Prometheus gives them."""

import json
import re
from pathlib import Path

import pytest
import ray
import yaml

from engine.serving.api import REQUESTS, SECONDS
from engine.streaming.metrics import COUNTERS, MEMBER_SECONDS, TAGS
from engine.training import node_metrics
from tests.conftest import REPOSITORY

FOLDER = REPOSITORY / "cluster" / "observability"
DASHBOARDS = {
    name: json.loads((FOLDER / f"{name}.grafana.json").read_text())
    for name in ("streaming", "training", "serving")
}
ALERTS = [
    rule
    for group in yaml.safe_load((FOLDER / "alerts.yaml").read_text())["groups"]
    for rule in group["rules"]
]

# From Ray's own node agents.
RAYS_OWN = {
    "ray_node_gpus_utilization",
    "ray_node_mem_used",
    "ray_node_mem_total",
    "ray_node_disk_utilization_percentage",
    "ray_object_store_memory",
}


def of_serving() -> tuple[set[str], set[str]]:
    """Names of its series, and of their labels, from what the server would print."""
    described = [metric for counted in (REQUESTS, SECONDS) for metric in counted.describe()]
    requests, seconds = (metric.name for metric in described)
    return {f"{requests}_total", f"{seconds}_bucket", f"{seconds}_count"}, {"route", "status"}


SERVING, SERVING_LABELS = of_serving()
TRAINING = {f"ray_{name}_total" for name in node_metrics.COUNTERS} | {
    f"ray_{name}" for name in (*node_metrics.GAUGES, node_metrics.CHECKPOINT_TIME, node_metrics.NOT_FINITE)
}
STREAMING = {f"ray_{name}_total" for name in COUNTERS} | {f"ray_{MEMBER_SECONDS}_bucket"}


def test_what_is_rays_own_is_in_this_ray():
    folder = Path(ray.__file__).parent / "dashboard/modules"
    sources = (folder / "reporter/reporter_agent.py").read_text()
    panels = (folder / "metrics/dashboards/default_dashboard_panels.py").read_text()
    assert all(f'"{name.removeprefix("ray_")}"' in sources or name in panels for name in RAYS_OWN)


def expressions(name: str) -> list[str]:
    return [target["expr"] for panel in DASHBOARDS[name]["panels"] for target in panel["targets"]]


def metric_names(expression: str) -> set[str]:
    return set(re.findall(r"\b(?:ray|syncytium)_\w+", expression))


@pytest.mark.parametrize(
    ("name", "emitted"), [("streaming", STREAMING), ("training", TRAINING), ("serving", SERVING)]
)
def test_every_metric_exists(name: str, emitted: set[str]):
    asked = set().union(*map(metric_names, expressions(name)))
    assert asked - RAYS_OWN == emitted


@pytest.mark.parametrize(
    ("name", "labels"),
    [("streaming", set(TAGS)), ("training", set(node_metrics.TAGS)), ("serving", {"route"})],
)
def test_filters_are_labels_of_our_metrics(name: str, labels: set[str]):
    used = set(re.findall(r"(\w+)=~\"\$", " ".join(expressions(name))))
    assert used == labels
    variables = {variable["name"] for variable in DASHBOARDS[name]["templating"]["list"]}
    assert variables == {"datasource", *labels}


@pytest.mark.parametrize("name", DASHBOARDS)
def test_every_panel_says_what_to_read_from_it(name: str):
    panels = DASHBOARDS[name]["panels"]
    assert all(panel["title"] and panel["description"] for panel in panels)
    assert len({panel["id"] for panel in panels}) == len(panels)


@pytest.mark.parametrize("alert", ALERTS, ids=lambda alert: alert["alert"])
def test_alerts_can_fire(alert: dict):
    expression = alert["expr"]
    asked = metric_names(expression)
    assert asked
    assert asked <= STREAMING | TRAINING | SERVING | RAYS_OWN
    # Labels that a message names must survive the sum that the expression makes.
    kept = set(re.findall(r"\w+", " ".join(re.findall(r"by \(([^)]*)\)", expression))))
    assert set(re.findall(r"\$labels\.(\w+)", alert["annotations"]["summary"])) <= kept
    assert re.search(r"(==|<|>) [\d.e]+$", expression)


def test_every_alert_has_its_page_in_the_runbook():
    guide = (REPOSITORY / "docs" / "guides" / "cluster.md").read_text()
    assert set(re.findall(r"^### (\w+)$", guide, re.MULTILINE)) == {alert["alert"] for alert in ALERTS}


def test_prometheus_finds_the_pods_that_submit_renders():
    config = yaml.safe_load((FOLDER / "prometheus.yaml").read_text())
    (pods,) = (job for job in config["scrape_configs"] if job["job_name"] == "syncytium-pods")
    rendered = (REPOSITORY / "tests" / "cluster" / "golden" / "service.yaml").read_text()
    wanted = re.findall(r"__meta_kubernetes_pod_label_(\w+)", json.dumps(pods))
    assert {label.replace("_", "/", 1) for label in wanted} == set(
        re.findall(r"syncytium/\w+(?=:)", rendered)
    )
    assert {"metrics", "serve"} <= set(re.findall(r"name: (\w+)", rendered))
