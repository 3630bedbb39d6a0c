"""The config file that `serve --write-config` writes is one that Ray Serve takes, with what keeps it safe."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from ray._common.utils import import_attr
from ray.serve._private.api import call_user_app_builder_with_args_if_necessary
from ray.serve.schema import ServeDeploySchema

from cluster.kubernetes.documents import serve_config
from cluster.site import KubernetesSite
from engine.serving.config_file import config_file
from engine.serving.settings import Settings
from jobs.serve import Options, run
from storage.errors import InputError


def test_the_written_config_is_the_application(served: Settings, tmp_path: Path) -> None:
    place = tmp_path / "serve.yaml"
    run(
        Options(
            output=str(tmp_path / "unused"), index=served.index, cells=served.cells, phrases=served.phrases,
            port=8123, replicas=2, most_replicas=4, index_version=1, write_config=str(place),
        )
    )  # fmt: skip
    config = ServeDeploySchema.model_validate(yaml.safe_load(place.read_text()))
    assert (config.http_options.host, config.http_options.port) == ("127.0.0.1", 8123)
    # A caller that sends or reads slowly is given up.
    assert config.http_options.request_timeout_s == 210
    (deployed,) = config.applications
    application = call_user_app_builder_with_args_if_necessary(
        import_attr(deployed.import_path), deployed.args
    )
    door = application._bound_deployment
    assert (door.name, door.user_config) == ("Door", {"index_version": 1})
    assert door.max_queued_requests == 256
    assert door._deployment_config.backpressure_config.retry_after_s == 1
    assert door._deployment_config.autoscaling_config.max_replicas == 4


def test_a_port_that_others_reach_needs_keys_in_a_file_too(served: Settings, tmp_path: Path) -> None:
    options = Options(index=served.index, host="192.0.2.1", write_config=str(tmp_path / "serve.yaml"))
    with pytest.raises(InputError, match="give --api-keys"):
        run(options)
    assert not (tmp_path / "serve.yaml").exists()


def test_kubernetes_gets_the_same_application() -> None:
    settings = Settings(index="/cells/index", replicas=2, api_keys="/keys")
    ours = yaml.safe_load(config_file(settings, "192.0.2.1", 8000))
    theirs = yaml.safe_load(serve_config(ours["applications"][0]["args"], KubernetesSite()))
    assert theirs["applications"] == ours["applications"]
    assert theirs["http_options"].keys() <= ours["http_options"].keys()


LOCKED = """
import os, sys
from jobs.serve import lock_own_ray
lock_own_ray("10.0.0.1:6379")
assert "RAY_AUTH_MODE" not in os.environ
lock_own_ray(None)
lock_own_ray("local")
assert "ray" not in sys.modules
# What Ray itself makes of it.
import ray
from ray._raylet import get_authentication_mode, AuthenticationMode
assert get_authentication_mode() == AuthenticationMode.TOKEN
print(os.environ["RAY_AUTH_TOKEN"])
"""


def test_the_ray_that_serve_starts_asks_for_a_token() -> None:
    """In a process of its own: Ray reads its mode once."""
    without = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    locked = subprocess.run([sys.executable, "-c", LOCKED], env=without, capture_output=True, text=True)
    assert locked.returncode == 0, locked.stderr
    assert len(locked.stdout.strip()) == 64


@pytest.mark.parametrize("rendered", ["service.yaml", "job.yaml", "interactive.yaml", "queued.yaml"])
def test_every_ray_on_kubernetes_asks_for_a_token(rendered: str) -> None:
    text = (Path(__file__).parent.parent / "cluster" / "golden" / rendered).read_text()
    documents = [each for each in yaml.safe_load_all(text) if each["apiVersion"].startswith("ray.io")]
    clusters = [found for each in documents for found in rays_of(each["spec"])]
    assert clusters
    assert all(found["authOptions"] == {"mode": "token"} for found in clusters)


def test_every_ray_on_slurm_asks_for_a_token() -> None:
    for script in (Path(__file__).parent.parent / "cluster" / "golden").glob("*.sbatch"):
        assert "export RAY_AUTH_MODE=token RAY_AUTH_TOKEN" in script.read_text()


def rays_of(spec: object) -> list[dict]:
    """Every specification of a Ray cluster in a resource."""
    if not isinstance(spec, dict):
        return []
    own = [spec] if "headGroupSpec" in spec else []
    return own + [found for value in spec.values() for found in rays_of(value)]
