"""Counts of a stream: how they add up, and that Prometheus can scrape them from a node."""

import json
import re
import subprocess
import sys

import pytest

from engine.streaming.metrics import COUNTERS, MEMBER_SECONDS, Activity, ActivityBoard, Spent
from tests.conftest import REPOSITORY

ONE = Spent(cells=2, tokens=90, slots=100, encoder_seconds=3.0, busy_seconds=1.5, peak_memory_bytes=7)
TWO = Spent(cells=1, tokens=60, slots=100, encoder_seconds=2.0, busy_seconds=0.5, peak_memory_bytes=5)


def test_spent_adds_up():
    both = ONE + TWO
    assert both == Spent(3, 150, 200, 5.0, 2.0, 7)
    assert both.useful_token_share == 0.75
    assert Spent().useful_token_share is None


def test_the_board_knows_how_busy_the_encoders_are():
    board = ActivityBoard()
    assert board.read() == Activity(Spent(), 0.0)
    assert board.read().busy_share is None
    board.add(4.0, ONE)
    board.add(2.0, TWO)
    board.add(4.0, ONE)
    activity = board.read()
    assert activity.spent.cells == 5
    assert activity.busy_share == pytest.approx(3.5 / 10.0)


SCRAPE = """
import json, sys, time, urllib.request
import ray
from engine.streaming.metrics import ActivityBoard, EncoderMetrics, Spent

ray.init(address="local", num_cpus=1, include_dashboard=False, log_to_driver=False)

@ray.remote(num_cpus=0.5)
class Encoder:
    def __init__(self, board):
        self.metrics = EncoderMetrics(board, "activations", "models/tiny")

    def work(self):
        for _ in range(3):
            self.metrics.add(Spent(2, 90, 100, 3.0, 1.5, 7))

board = ray.remote(num_cpus=0)(ActivityBoard).remote()
encoder = Encoder.remote(board)
ray.get(encoder.work.remote())
port = ray.nodes()[0]["MetricsExportPort"]
deadline = time.monotonic() + 60
text = ""
while "ray_syncytium_stream_busy_seconds" not in text and time.monotonic() < deadline:
    time.sleep(0.5)
    try:
        text = urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5).read().decode()
    except OSError:
        pass
print(json.dumps([line for line in text.splitlines() if line.startswith("ray_syncytium")]))
"""


@pytest.mark.slow
def test_prometheus_can_scrape_what_the_encoders_count():
    # A Ray of its own: the one that other tests share runs without metrics.
    environment = {
        "PATH": "/usr/bin:/bin",
        "PYTHONPATH": str(REPOSITORY),
        "RAY_metrics_report_interval_ms": "500",
    }
    environment |= {"RAY_USAGE_STATS_ENABLED": "0", "RAY_AUTH_MODE": "disabled"}
    done = subprocess.run(
        [sys.executable, "-c", SCRAPE],
        env=environment,
        capture_output=True,
        text=True,
        timeout=180,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    lines = json.loads(done.stdout.splitlines()[-1])
    counted = {}
    for line in lines:
        name, labels, value = re.fullmatch(r"ray_(\w+)\{(.*)\} (\S+)", line).groups()
        assert 'product="activations"' in labels
        assert 'model="models/tiny"' in labels
        counted[name.removesuffix("_total")] = float(value)
    assert counted["syncytium_stream_members"] == 3
    assert counted["syncytium_stream_cells"] == 6
    assert counted["syncytium_stream_tokens"] == 270
    assert counted["syncytium_stream_token_slots"] == 300
    assert counted["syncytium_stream_busy_seconds"] == pytest.approx(4.5)
    assert set(COUNTERS) <= set(counted)
    assert counted[f"{MEMBER_SECONDS}_count"] == 3
