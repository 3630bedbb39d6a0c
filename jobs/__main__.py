"""`syncytium <job> ...`: finds the job's module and hands it the rest of the command line."""

import importlib
import os
import select
import sys
from pathlib import Path

# What each job is for, in the order of the street. A job is listed here once it exists.
JOBS = {
    "check": "report what is wrong with count files, and how to fix it",
    "ingest": "h5ad, 10x or zarr counts -> cell store",
    "train-encoder": "train a Tahoe-x1 or Geneformer encoder on a cell store",
    "captions": "cell store -> captions of its cells, by template or by a language model",
    "train-joint": "cells with captions, a cell tower and a text tower -> joint model",
    "conversations": "cell store with captions -> template conversations about its cells",
    "train-chat": "conversations, a joint model and a language model -> chat model about cells",
    "embed": "cell store -> embeddings",
    "cache": "cell store -> activation cache",
    "train-sae": "activation cache -> sparse autoencoder",
    "evaluate-sae": "sparse autoencoder + cache -> how good it is, beside baselines",
    "features": "sparse autoencoder + cache -> feature tables",
    "enrich": "feature tables + gene sets -> what each feature's genes are known for, beside chance",
    "dashboard": "feature tables + enrichment -> a static site that opens from disk",
    "databases": "files of public databases -> which genes go with which diseases, phenotypes, pathways",
    "attribute": "which features an encoder's loss, predictions or embedding rest on",
    "steer": "edit features while cells are encoded -> effects on genes and cells",
    "perturb-in-silico": "delete or overexpress genes in an encoder's cells -> shifts, also towards a goal",
    "compare-saes": "sparse autoencoders -> which features they share, stability over seeds",
    "train-perturbation": "cell store of a screen -> predictor of what perturbations do",
    "predict-perturbation": "predictor + cells -> predicted cells as AnnData",
    "evaluate-perturbation": "predicted against real perturbations -> metrics, beside baselines",
    "convert": "checkpoints of CellWhisperer, Geneformer, Tahoe-x1, sae-genomics -> model directory",
    "index": "embeddings, or cells and a joint model -> vector index",
    "phrases": "lists of terms and a joint model -> phrase bank, what cells can be called",
    "search": "vector index -> the cells most like a text or given cells; phrases for cells",
    "annotate": "cells + joint model -> h5ad for CELLxGENE: map, clusters, labels, captions",
    "evaluate-joint": "joint model + labelled cells -> how good it is, beside baselines, and a page",
    "serve": "index, cells, features -> search, scores, conversation and a page, over HTTP",
    "submit": "send a job to Kubernetes, SLURM or a running Ray",
    "inspect": "say what a dataset or model directory is, and verify it",
    "status": "every dataset below a place: how far it is, what it was made from",
    "gc": "remove the datasets that nothing to keep was made from",
    "demo": "the whole street on real cells, and a page to look at",
}

# As a shell says of a program that SIGPIPE ended.
_ENDED_BY_READER = 141


def usage() -> str:
    width = max(map(len, JOBS))
    lines = [f"  {name:<{width}}  {purpose}" for name, purpose in JOBS.items()]
    return "usage: syncytium JOB [flags]     (syncytium JOB --help for its flags)\n\n" + "\n".join(lines)


def main(argv: list[str] | None = None) -> int:
    arguments = sys.argv[1:] if argv is None else argv
    if not arguments or arguments[0] in ("-h", "--help"):
        print(usage())
        return 0
    name, rest = arguments[0].replace("_", "-"), arguments[1:]
    if name not in JOBS:
        print(f"syncytium: there is no job {arguments[0]!r}.\n\n{usage()}", file=sys.stderr)
        return 2
    # Ray workers import the engine by name; a plain checkout is on their path only if it is on ours.
    checkout = str(Path(__file__).resolve().parent.parent)
    if checkout not in sys.path:
        sys.path.insert(0, checkout)
    try:
        exit_code: int = importlib.import_module("jobs." + name.replace("-", "_")).main(rest)
        sys.stdout.flush()
    except BrokenPipeError:
        if not _reader_is_gone():
            raise
        return _ENDED_BY_READER
    return exit_code


def _reader_is_gone() -> bool:
    """Whether nobody reads what is printed any more (`syncytium search ... | head`); the rest is dropped."""
    printed = select.poll()
    printed.register(sys.stdout.fileno(), 0)
    if not any(event & select.POLLERR for _, event in printed.poll(0)):
        return False
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return True


if __name__ == "__main__":
    raise SystemExit(main())
