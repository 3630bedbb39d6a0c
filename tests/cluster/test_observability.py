"""The dashboard asks only for metrics that exist, under the names Prometheus gives them."""

import json
import re

from engine.streaming.metrics import COUNTERS, MEMBER_SECONDS, TAGS
from tests.conftest import REPOSITORY

DASHBOARD = json.loads((REPOSITORY / "cluster" / "observability" / "streaming.grafana.json").read_text())
EXPRESSIONS = [target["expr"] for panel in DASHBOARD["panels"] for target in panel["targets"]]
# From Ray's own node agents.
RAYS_OWN = {"ray_node_gpus_utilization", "ray_node_mem_used", "ray_object_store_memory"}


def metric_names(expression: str) -> set[str]:
    return set(re.findall(r"\bray_\w+", expression))


def test_every_metric_exists():
    ours = {f"ray_{name}_total" for name in COUNTERS} | {f"ray_{MEMBER_SECONDS}_bucket"}
    asked = set().union(*map(metric_names, EXPRESSIONS))
    assert asked - RAYS_OWN == ours


def test_filters_are_labels_of_our_metrics():
    used = set(re.findall(r"(\w+)=~\"\$", " ".join(EXPRESSIONS)))
    assert used == set(TAGS)
    variables = {variable["name"] for variable in DASHBOARD["templating"]["list"]}
    assert variables == {"datasource", *TAGS}


def test_every_panel_says_what_to_read_from_it():
    assert all(panel["title"] and panel["description"] for panel in DASHBOARD["panels"])
    assert len({panel["id"] for panel in DASHBOARD["panels"]}) == len(DASHBOARD["panels"])
