"""The sbatch script: one Ray over the nodes of the job, the job's process on the first of them.

Each line that is not obvious was found on a real SLURM and is said why beside it, in the script itself.
"""

from __future__ import annotations

import shlex

from cluster.site import Site, SlurmSite
from cluster.submission import Machine, Submission, module_command
from storage.errors import InputError

# Before the end of the time limit. sbatch sends it up to a minute early or late.
_WARNING_SECONDS = 180
# From the end of the first node's part of a job to that of the others': they notice after half a minute.
_PATIENCE_SECONDS = 90


def render(submission: Submission, site: Site) -> str:
    """The whole script. Raises InputError for what SLURM cannot do."""
    if submission.serving is not None:
        raise InputError(
            "serve: SLURM runs batch jobs; serve on Kubernetes, or on one machine without submit."
        )
    if not submission.commands:
        raise InputError("--on slurm needs a job: submit --on slurm -- JOB FLAGS.")
    if submission.reader_nodes or submission.image:
        raise InputError(
            "--reader-nodes and --image are for Kubernetes (a container for SLURM: slurm.apptainer)."
        )
    parts = (
        "#!/bin/bash",
        *_directives(submission, site.slurm),
        "set -euo pipefail",
        *_environment(submission, site),
        *_commands(submission),
        _CLUSTER.format(wait=site.slurm.wait_seconds),
        _RENEWAL.format(retries=submission.retries),
        *_step(submission, site.slurm),
        _ENDING,
    )
    return "\n".join(parts)


def _directives(submission: Submission, slurm: SlurmSite) -> list[str]:
    machine, sweep = submission.machine, len(submission.commands) > 1
    limit = submission.time_limit_seconds
    given = {
        "job-name": submission.name,
        "nodes": str(submission.nodes),
        "ntasks-per-node": "1",
        "cpus-per-task": str(machine.cpus),
        "mem": f"{machine.memory_gib}G",
        "gres": f"{slurm.gres}:{machine.gpus}" if machine.gpus else None,
        "partition": submission.queue or slurm.partition,
        "account": slurm.account,
        "qos": slurm.qos,
        "constraint": slurm.constraint,
        "time": None if limit is None else str(max(1, -(-limit // 60))),
        # Not TERM: that is what scancel sends, and a cancelled job must not come back.
        "signal": None if limit is None else f"B:USR1@{_WARNING_SECONDS}",
        "array": f"0-{len(submission.commands) - 1}" if sweep else None,
        "output": slurm.output.replace("%j", "%A_%a") if sweep else slurm.output,
        "open-mode": "append",
    }
    lines = [f"#SBATCH --{name}={value}" for name, value in given.items() if value is not None]
    # SLURM itself starts a preempted job, or one whose node died, again; the job resumes at its last commit.
    lines.append("#SBATCH --requeue" if submission.retries else "#SBATCH --no-requeue")
    return lines + ["#SBATCH --exclusive"] * slurm.exclusive


def _environment(submission: Submission, site: Site) -> list[str]:
    slurm = site.slurm
    lines = [f"module load {shlex.quote(module)}" for module in slurm.modules]
    if slurm.activate and not slurm.apptainer:
        lines.append(f"source {shlex.quote(slurm.activate)}/bin/activate")
    lines += slurm.setup
    variables = {
        "RAY_USAGE_STATS_ENABLED": "0",
        "PYTHONUNBUFFERED": "1",
        **(
            {"GLOO_SOCKET_IFNAME": slurm.interface, "NCCL_SOCKET_IFNAME": slurm.interface}
            if slurm.interface
            else {}
        ),
        **site.environment,
        **submission.environment,
    }
    lines += [f"export {name}={shlex.quote(value)}" for name, value in variables.items()]
    return [*lines, "# The code comes from the shared file system; nothing is uploaded.", _PYTHONPATH]


def _commands(submission: Submission) -> list[str]:
    rendered = [f"set -- {shlex.join(module_command(command))}" for command in submission.commands]
    if len(rendered) == 1:
        return rendered
    cases = (f"  {place}) {command} ;;" for place, command in enumerate(rendered))
    return ['case "$SLURM_ARRAY_TASK_ID" in', *cases, "esac"]


def _step(submission: Submission, slurm: SlurmSite) -> list[str]:
    container, leftovers = "", _LEFTOVERS
    if slurm.apptainer:
        leftovers = ""
        # A process namespace of its own: `ray stop` at the end ends the Ray in it, and no other.
        words = ["apptainer", "exec", "--pid", *["--nv"] * bool(submission.machine.gpus)]
        words += [word for bind in slurm.binds for word in ("--bind", bind)]
        container = shlex.join([*words, slurm.apptainer]) + " "
    return [
        _STEP.format(
            container=container,
            leftovers=leftovers,
            ray=_ray_start_flags(submission.machine, slurm),
            patience=_PATIENCE_SECONDS,
        )
    ]


def _ray_start_flags(machine: Machine, slurm: SlurmSite) -> str:
    """Of `ray start`, on the head and on the others alike: a flag of the head alone makes the others fail."""
    return (
        f"--num-cpus={machine.cpus} --num-gpus={machine.gpus} "
        f"--object-store-memory={slurm.object_store_gib << 30}"
    )


_PYTHONPATH = 'export PYTHONPATH="$SLURM_SUBMIT_DIR${PYTHONPATH:+:$PYTHONPATH}"'

_CLUSTER = """
# One token per job: who reaches the port still cannot submit work.
RAY_AUTH_TOKEN=$(head -c 32 /dev/urandom | od -An -tx1 | tr -d ' \\n')
export RAY_AUTH_MODE=token RAY_AUTH_TOKEN
head_node=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n1)
head_ip=$(srun --nodes=1 --ntasks=1 -w "$head_node" \\
  bash -c 'getent ahostsv4 "$(hostname)" | awk "{{print \\$1; exit}}"')
# Two jobs may share a machine.
export RAY_ADDRESS="$head_ip:$((20000 + SLURM_JOB_ID % 20000))"
export RAY_SYMMETRIC_RUN_CLUSTER_WAIT_TIMEOUT={wait} RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S=0
# Ray ends with 0 where it could not even start; only the job itself makes this file.
export done_file="$SLURM_SUBMIT_DIR/.$SLURM_JOB_NAME-$SLURM_JOB_ID.done"
rm -f "$done_file"
trap 'rm -f "$done_file"' EXIT"""

_RENEWAL = """
again() {{
  if [ "${{SLURM_RESTART_COUNT:-0}}" -lt {retries} ]; then
    echo "submit: $1; queued again, to resume"
    scontrol requeue "$SLURM_JOB_ID"
  else
    echo "submit: $1, and it was begun {retries} times again already"
  fi
}}
trap 'again "the time limit is near"' USR1"""

_LEFTOVERS = """# Where SLURM does not follow daemons, a preempted job leaves its Ray on the node.
! pgrep -u "$(id -u)" -f '[r]aylet/raylet' >/dev/null || ray stop --force
"""

_STEP = """
on_node=$(cat <<'ON_NODE'
{leftovers}# Others than the first give up 10 s after the head is gone, not 60. On the head the variable would
# make symmetric-run end with 1 while its own `ray stop` ends the head: a good job, called failed.
[ "$SLURM_PROCID" = 0 ] || export RAY_gcs_rpc_server_reconnect_timeout_s=10
exec {container}ray symmetric-run --address "$RAY_ADDRESS" --min-nodes "$SLURM_NNODES" \\
  {ray} \\
  -- sh -c '"$@" && : > "$0"' "$done_file" "$@"
ON_NODE
)
srun --nodes="$SLURM_NNODES" --ntasks-per-node=1 --cpus-per-task="$SLURM_CPUS_PER_TASK" \\
  bash -c "$on_node" on_node "$@" &
step=$!
# A signal ends `wait`, not the step.
while :; do
  code=0
  wait "$step" || code=$?
  kill -0 "$step" 2>/dev/null || break
done"""

_ENDING = """
# The job's own word counts, whatever its nodes did afterwards.
if [ -e "$done_file" ]; then
  code=0
elif [ "$code" = 0 ]; then
  code=1
fi
# 2 is bad input: trying again does not help.
if [ "$code" != 0 ] && [ "$code" != 2 ]; then
  again "the job ended with $code"
fi
exit "$code"
"""
