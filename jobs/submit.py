"""`syncytium submit --on TARGET -- JOB FLAGS`: the same job on Kubernetes, on SLURM, or on a running Ray."""

import importlib
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Annotated, Any, Literal

import tyro

from jobs.anatomy import JobOptions, Outcome, launch, parse
from jobs.anatomy.option_files import read_yaml
from storage.errors import InputError
from storage.locations import Location


@dataclass(kw_only=True)
class Options(JobOptions):
    """Send a job to machines: submit --on slurm --nodes 2 --gpus 4 -- cache --cells ... Without a job on
    Kubernetes: a Ray cluster to work on; with `serve`: a service."""

    on: Literal["kubernetes", "slurm", "ray"]
    """Where to."""
    site: str | None = None
    """YAML file of what is the same for every job here: partition, images, volumes, secrets."""
    name: str | None = None
    """Of the job there. Default: syncytium-JOB."""
    nodes: int = 1
    """Machines. On Kubernetes it begins with one and may grow to so many, unless a queue admits them all."""
    cpus: int = 4
    """Of each machine."""
    gpus: int = 0
    """Of each machine."""
    memory: int = 16
    """Of each machine, in GiB."""
    reader_nodes: int = 0
    """On Kubernetes, beside machines with GPUs: so many of the same size without, for reading."""
    spot: bool = False
    """On Kubernetes: workers may be taken away at any moment; the job resumes."""
    queue: str | None = None
    """Kueue's LocalQueue, or SLURM's partition. Default: the site's."""
    time_limit: str | None = None
    """After which the job is ended, e.g. 90m, 4h, 1d12h."""
    retries: int = 3
    """How often a job that failed, was preempted or ran out of time starts again and resumes."""
    image: str | None = None
    """On Kubernetes, by digest: NAME@sha256:... Default: the site's."""
    env: tuple[str, ...] = ()
    """Variables of the job's processes, NAME=VALUE."""
    sweep: tuple[str, ...] = ()
    """NAME=A,B,C: one job for each value, put wherever a flag of the job says {NAME}; several
    (--sweep k=32,64 seed=0,1) make all combinations."""
    follow: bool = True
    """Stay until the job ends, show its log, and end with its exit code. Ctrl-C stops a job on Ray; on
    Kubernetes and SLURM it goes on."""
    job_id: str | None = None
    """Submit nothing; follow this job."""
    dry_run: bool = False
    """Print what would be submitted; with --output write it there, too."""
    job: Annotated[tuple[str, ...], tyro.conf.Suppress] = field(default=())


def run(options: Options) -> Outcome:
    # `cluster` is imported by nobody: it stands over the jobs, and is found by name.
    targets = importlib.import_module("cluster.targets")
    site = site_of(options)
    if options.job_id is not None:
        code = targets.reattach(options.on, options.job_id, site)
        return Outcome(facts={"ids": [options.job_id]}, exit_code=code, writes_record=False)
    submission = submission_of(options)
    rendered = targets.render(options.on, submission, site)
    if options.output:
        Location.of(options.output).put("", rendered.encode())
    if options.dry_run:
        print(rendered, end="")
        return Outcome(counts_out={"jobs": len(submission.commands)}, writes_record=False)
    ids, code = targets.submit(options.on, submission, site, follow=options.follow)
    return Outcome(
        counts_out={"jobs": len(ids)},
        facts={"ids": ids, "command": options.job},
        exit_code=code,
        writes_record=False,
    )


def site_of(options: Options) -> Any:
    """`cluster.site.Site` of --site. Raises InputError for keys that mean nothing."""
    site_module = importlib.import_module("cluster.site")
    found = read_yaml(options.site, "--site") if options.site else {}
    site = site_module.site_of(found, f"--site {options.site}")
    return replace(site, ray=replace(site.ray, address=options.address)) if options.address else site


def submission_of(options: Options) -> Any:
    """`cluster.submission.Submission` of the flags. Raises InputError, also for the job's own bad flags."""
    terms = importlib.import_module("cluster.submission")
    sweep = {name: tuple(values.split(",")) for name, values in map(_assigned, options.sweep)}
    served = options.job[:1] == ("serve",)
    commands = terms.swept(options.job, sweep) if options.job and not served else ()
    for command in commands:
        check_flags(command)
    return terms.Submission(
        name=options.name or "-".join(["syncytium", *options.job[:1]]),
        commands=commands,
        serving=serving_of(options.job[1:]) if served else None,
        machine=terms.Machine(cpus=options.cpus, gpus=options.gpus, memory_gib=options.memory),
        nodes=options.nodes,
        reader_nodes=options.reader_nodes,
        spot=options.spot,
        environment=dict(map(_assigned, options.env)),
        image=options.image,
        queue=options.queue,
        time_limit_seconds=terms.seconds(options.time_limit) if options.time_limit else None,
        # A job on a running Ray is begun once, by this command.
        retries=0 if options.on == "ray" else options.retries,
    )


def _assigned(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not (equals and name.isidentifier()):
        raise InputError(f"{text!r}: write it as NAME=VALUE.")
    return name, value


def check_flags(command: tuple[str, ...]) -> None:
    """Parses the job's flags here, where a mistake costs a second and no hour in a queue.

    Exits with 2, as the job would. A job's --config file is read where the job runs, so its flags are, too.
    """
    from jobs.__main__ import JOBS

    name, *flags = command
    name = name.replace("_", "-")
    if name not in JOBS or name == "submit":
        raise InputError(f"there is no job {command[0]!r} to submit; syncytium --help lists them.")
    if not any(flag.partition("=")[0] == "--config" for flag in flags):
        parse(name, importlib.import_module("jobs." + name.replace("-", "_")).Options, flags)


def serving_of(flags: Sequence[str]) -> dict[str, Any]:
    """Args of the served application: the flags of `serve` that differ from their defaults."""
    from engine.serving.settings import Settings
    from jobs.anatomy import comma_separated
    from jobs.serve import Options as ServeOptions

    options = parse("serve", ServeOptions, flags)
    if options.index is None:
        raise InputError("--index is missing: say which vector index to serve.")
    given = {name: getattr(options, name) for name in Settings.model_fields if hasattr(options, name)}
    settings = Settings.model_validate({**given, "allow_origins": comma_separated(options.allow_origins)})
    return settings.model_dump(mode="json", exclude_defaults=True)


def main(argv: Sequence[str] | None = None) -> int:
    words = list(sys.argv[1:] if argv is None else argv)
    end = words.index("--") if "--" in words else len(words)
    with_job = partial(replace, job=tuple(words[end + 1 :]))
    return launch("submit", Options, lambda options: run(with_job(options)), words[:end])


if __name__ == "__main__":
    raise SystemExit(main())
