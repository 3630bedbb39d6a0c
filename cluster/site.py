"""What is the same for every submission at one place: one YAML file, `--site FILE`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from cluster.settings_files import build
from storage.errors import InputError


@dataclass(frozen=True)
class SlurmSite:
    """partition, account, qos, constraint: as sbatch takes them. gres: name of the GPUs, e.g. `gpu:a100`.
    modules: for `module load`. activate: virtual environment, from the folder of submission or absolute.
    setup: lines of shell after that. exclusive: whole nodes; without it a container must keep jobs apart,
    because `ray symmetric-run` ends with `ray stop`, which ends every Ray of the user that it can see.
    apptainer: image to run in, with binds. interface: network card of gloo and NCCL, e.g. `ib0`.
    wait_seconds: how long nodes may take to import Ray from a cold shared file system (Ray's 30 are too few).
    object_store_gib: of each node. output: file pattern of the log.
    """

    partition: str | None = None
    account: str | None = None
    qos: str | None = None
    constraint: str | None = None
    gres: str = "gpu"
    modules: tuple[str, ...] = ()
    activate: str | None = ".venv"
    setup: tuple[str, ...] = ()
    exclusive: bool = True
    apptainer: str | None = None
    binds: tuple[str, ...] = ()
    interface: str | None = None
    wait_seconds: int = 300
    object_store_gib: int = 2
    output: str = "%x-%j.log"


@dataclass(frozen=True)
class Volume:
    """A persistent volume claim and where pods see it. read_only: for pods that need not write."""

    claim: str
    path: str
    read_only: bool = False


@dataclass(frozen=True)
class Redis:
    """Where Ray's global state outlives its head. secret, key: of the password, if there is one."""

    address: str
    secret: str | None = None
    key: str = "password"


@dataclass(frozen=True)
class Spill:
    """A volume per pod for objects that do not fit into memory. storage_class: None takes the default one."""

    gib: int
    storage_class: str | None = None


@dataclass(frozen=True)
class KubernetesSite:
    """image: of CPU and, unless cuda_image is given, of GPU pods; by digest. volumes: shared datasets and
    models. bucket_secret: Secret whose keys become environment (AWS_ACCESS_KEY_ID, ...). api_keys_secret:
    Secret with the key `keys`, the file of `serve --api-keys`. queue: Kueue's LocalQueue unless --queue says
    otherwise. elastic_queue: Kueue there has ElasticJobsViaWorkloadSlices; otherwise jobs in a queue do not
    scale. on_demand, spot: node labels of machines that stay and of those that may be taken away.
    spot_taint, gpu_taint: keys of taints. head_cpus, head_memory_gib: of the head, which runs no tasks.
    user: uid and gid of the image's user. operator_namespace, metrics_namespace: who may reach the dashboard
    and the metrics. clients: namespaces whose pods may reach a served port; none means every pod of ours.
    idle_seconds: after which the autoscaler takes a worker away.
    """

    image: str | None = None
    cuda_image: str | None = None
    namespace: str = "default"
    pull_secret: str | None = None
    service_account: str | None = None
    volumes: tuple[Volume, ...] = ()
    bucket_secret: str | None = None
    api_keys_secret: str | None = None
    queue: str | None = None
    priority_class: str | None = None
    elastic_queue: bool = False
    on_demand: Mapping[str, str] = field(default_factory=dict)
    spot: Mapping[str, str] = field(default_factory=dict)
    spot_taint: str = "spot"
    gpu_resource: str = "nvidia.com/gpu"
    gpu_taint: str = "nvidia.com/gpu"
    head_cpus: int = 4
    head_memory_gib: int = 16
    user: int = 1000
    redis: Redis | None = None
    spill: Spill | None = None
    operator_namespace: str = "kuberay-system"
    metrics_namespace: str = "monitoring"
    clients: tuple[str, ...] = ()
    idle_seconds: int = 120


@dataclass(frozen=True)
class RaySite:
    """address: of the dashboard, http://HOST:8265. working_dir: what is sent to the cluster; None when its
    image holds the code. excludes: patterns below it that are not sent, beside those of .gitignore."""

    address: str | None = None
    working_dir: str | None = "."
    # No job needs them, and Ray refuses packages above 512 MiB.
    excludes: tuple[str, ...] = ("docs", "tests", "*.whl")


@dataclass(frozen=True)
class Site:
    """environment: variables of every process of a job, on every target."""

    environment: Mapping[str, str] = field(default_factory=dict)
    slurm: SlurmSite = field(default_factory=SlurmSite)
    kubernetes: KubernetesSite = field(default_factory=KubernetesSite)
    ray: RaySite = field(default_factory=RaySite)


def site_of(found: Mapping[str, object], where: str) -> Site:
    """The site that a YAML file describes. Raises InputError for keys and values that mean nothing."""
    site = build(Site, found, where)
    slurm = site.slurm
    if not slurm.exclusive and slurm.apptainer is None:
        raise InputError(
            f"{where}: slurm: exclusive: false needs `apptainer: IMAGE`: on a shared node the end of one job "
            "(`ray stop`) would end the Ray of another, unless each sees only its own processes."
        )
    if slurm.binds and slurm.apptainer is None:
        raise InputError(f"{where}: slurm: binds need `apptainer: IMAGE`.")
    return site
