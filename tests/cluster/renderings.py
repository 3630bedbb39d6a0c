"""The renderings that are kept to be read: `python -m tests.cluster.renderings` writes them anew."""

from __future__ import annotations

import contextlib
import io
import sys
from pathlib import Path

from jobs.submit import main

GOLDEN = Path(__file__).parent / "golden"
_SITE = f"--site {GOLDEN / 'site.yaml'}"
_CACHE = "-- cache --cells /cells/store --model /models/tahoe-70m --hooks resid_post_6 --output /cells/cache"

RENDERINGS = {
    "job.yaml": f"--on kubernetes {_SITE} --name cache --nodes 8 --gpus 1 --cpus 12 --memory 96 "
    f"--reader-nodes 2 --spot --time-limit 2d {_CACHE}",
    "queued.yaml": f"--on kubernetes {_SITE} --name cache --nodes 4 --queue cells --retries 1 {_CACHE}",
    "interactive.yaml": f"--on kubernetes {_SITE} --name notebook --nodes 4 --memory 64",
    "service.yaml": f"--on kubernetes {_SITE} --name search --nodes 2 --cpus 8 --memory 64 "
    "-- serve --index /cells/index --cells /cells/store --replicas 2",
    "job.sbatch": f"--on slurm {_SITE} --name cache --nodes 2 --gpus 4 --cpus 48 --memory 400 "
    f"--time-limit 12h {_CACHE}",
    "sweep.sbatch": f"--on slurm --site {GOLDEN / 'container.yaml'} --sweep k=32,64 seed=0,1 "
    "-- train-sae --cache /shared/cache --steps 1000 --k {k} --seed {seed} --output /shared/sae-{k}-{seed}",
    "ray.json": f"--on ray {_SITE} --env NUMBA_NUM_THREADS=2 {_CACHE}",
}


def rendered(name: str) -> str:
    """What the command line of that name prints."""
    flags, _, job = RENDERINGS[name].partition("-- ")
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        code = main([*flags.split(), "--dry-run", *(["--", *job.split()] if job else [])])
    if code:
        raise RuntimeError(f"{name}: submit ended with {code}")
    return printed.getvalue()


if __name__ == "__main__":
    for golden in sys.argv[1:] or RENDERINGS:
        (GOLDEN / golden).write_text(rendered(golden))
