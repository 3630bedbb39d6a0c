"""Counts of a stream: how they add up, and that Prometheus can scrape them from a node."""

import json
import re
import subprocess
import sys
import time

import pytest

from engine.streaming.metrics import COUNTERS, MEMBER_SECONDS, Activity, ActivityBoard, Spent
from engine.training.node_metrics import CHECKPOINT_TIME, NOT_FINITE
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
from engine.training.node_metrics import NodeMetrics
from storage.locations import Location

ray.init(address="local", num_cpus=1, include_dashboard=False, log_to_driver=False)

@ray.remote(num_cpus=0.5)
class Encoder:
    def __init__(self, board):
        self.metrics = EncoderMetrics(board, "activations", "models/tiny")

    def work(self):
        for _ in range(3):
            self.metrics.add(Spent(2, 90, 100, 3.0, 1.5, 7))

@ray.remote(num_cpus=0)
class Trainer:
    def work(self):
        # Two autoencoders of a sweep in one process.
        self.runs = [NodeMetrics(Location.of(path)) for path in ("/runs/a", "/runs/b")]
        row = {"loss": 0.5, "gradient_norm": 1.5, "learning_rate": 1e-3, "tokens": 64.0, "seconds": 2.0}
        for run in self.runs:
            run.log([row, {**row, "loss": float("nan")}])
            run.log([{**row, "loss": 0.25}])

def scrape():
    port = ray.nodes()[0]["MetricsExportPort"]
    while True:
        try:
            return urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5).read().decode()
        except OSError:
            time.sleep(0.5)

# A process that starts long before its node's agent answers gives up telling it anything, for good.
scrape()
board = ray.remote(num_cpus=0)(ActivityBoard).remote()
encoder = Encoder.remote(board)
trainer = Trainer.remote()
ray.get([encoder.work.remote(), trainer.work.remote()])
while True:
    time.sleep(0.5)
    ours = [line for line in scrape().splitlines() if line.startswith("ray_syncytium")]
    print(json.dumps(ours), flush=True)
"""


STREAM = {
    "syncytium_stream_members": 3,
    "syncytium_stream_cells": 6,
    "syncytium_stream_tokens": 270,
    "syncytium_stream_token_slots": 300,
    "syncytium_stream_busy_seconds": 4.5,
    f"{MEMBER_SECONDS}_count": 3,
}
TRAINING = {
    "syncytium_training_steps": 3,
    "syncytium_training_tokens": 192,
    "syncytium_training_seconds": 6,
    "syncytium_training_loss": 0.25,
    "syncytium_training_gradient_norm": 1.5,
    "syncytium_training_learning_rate": 1e-3,
    NOT_FINITE: 0,
}
EXPECTED = STREAM | {f"{name}/{run}": value for run in "ab" for name, value in TRAINING.items()}
NAMES = {*COUNTERS, f"{CHECKPOINT_TIME}/a", f"{CHECKPOINT_TIME}/b"}


def read(lines: list[str]) -> dict[str, float]:
    """Name -> value; that of a training run has its letter behind it."""
    counted: dict[str, float] = {}
    for line in lines:
        name, labels, value = re.fullmatch(r"ray_(\w+)\{(.*)\} (\S+)", line).groups()
        if name.startswith("syncytium_training"):
            assert 'run="/runs/' in labels
            name += labels.partition('run="/runs')[2][:2]
        else:
            assert 'product="activations"' in labels
            assert 'model="models/tiny"' in labels
        counted[name.replace("_total", "")] = float(value)
    return counted


@pytest.mark.slow
def test_prometheus_can_scrape_what_encoders_and_training_count():
    # A Ray of its own: the one that other tests share runs without metrics.
    environment = {
        "PATH": "/usr/bin:/bin",
        "PYTHONPATH": str(REPOSITORY),
        "RAY_metrics_report_interval_ms": "500",
    }
    environment |= {"RAY_USAGE_STATS_ENABLED": "0", "RAY_AUTH_MODE": "disabled"}
    script = subprocess.Popen(
        [sys.executable, "-c", SCRAPE],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    counted: dict[str, float] = {}
    scrapes, deadline = 0, time.monotonic() + 300
    complete_at: list[int] = []
    # Every process tells what it has in its own time: the first scrapes see some of it. Later all is still
    # there, long after what was told once would be forgotten.
    while not complete_at or complete_at[-1] < complete_at[0] + 10:
        line = script.stdout.readline()
        if not line or time.monotonic() > deadline:
            break
        counted, scrapes = read(json.loads(line)), scrapes + 1
        if EXPECTED.items() <= counted.items() and counted.keys() >= NAMES:
            complete_at.append(scrapes)
    script.terminate()
    messages = script.communicate()[1]
    missing = {name: counted.get(name) for name in EXPECTED if counted.get(name) != EXPECTED[name]}
    assert not missing, (missing, messages)
    assert counted.keys() >= NAMES, messages
    assert complete_at[-1] >= complete_at[0] + 10
    for run in "ab":
        assert 0 < time.time() - counted.pop(f"{CHECKPOINT_TIME}/{run}") < 600
    of_training = {name: value for name, value in counted.items() if name.startswith("syncytium_training")}
    assert of_training == {name: EXPECTED[name] for name in EXPECTED.keys() - STREAM.keys()}
