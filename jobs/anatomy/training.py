"""The flags and the outcome that all jobs with a training loop share."""

from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, Literal

from jobs.anatomy import JobOptions, ProgressLine
from jobs.anatomy.run_record import Outcome

if TYPE_CHECKING:
    from engine.training.options import TrainingOptions
    from engine.training.recipe import Recipe


@dataclass(kw_only=True)
class TrainingFlags(JobOptions):
    """How to train, and where: the same for every job that trains."""

    steps: int
    """Optimiser steps."""
    lr: float | None = None
    """Peak learning rate. Default: see the job."""
    warmup_steps: int | None = None
    """Steps of linear warm-up. Default: 5 % of the steps."""
    decay: Literal["cosine", "linear", "constant"] | None = None
    """Shape of the learning rate after the warm-up. Default: see the job."""
    weight_decay: float = 0.0
    """Decoupled weight decay of matrices."""
    clip: float = 1.0
    """Largest norm of the gradient; 0 = do not clip."""
    accumulation: int = 1
    """Micro-batches a worker adds up before a step."""
    workers: int = 1
    """Training processes, a GPU each where there are GPUs. 0: train in this process, without Ray."""
    cpus_per_worker: int = 1
    """CPU cores of each worker."""
    zero: Literal[0, 1, 2, 3] = 0
    """ZeRO stage. 1 shares out the optimiser state, 2 also gradients, 3 also weights."""
    precision: Literal["fp32", "bf16"] = "fp32"
    """bf16: matrix products in bfloat16, weights and optimiser in float32."""
    checkpoint_every: int = 500
    """Steps between checkpoints."""
    keep: int = 2
    """Newest checkpoints to keep."""
    max_failures: int = 3
    """Worker losses after which the job gives up."""

    def training_options(self, *, batch: int, lr: float, decay: str, **others: Any) -> "TrainingOptions":
        """Options of the loop: the job's defaults, below what was given on the command line."""
        from engine.training.options import TrainingOptions

        same = {field.name for field in fields(TrainingOptions)} & {field.name for field in fields(self)}
        given = {name: getattr(self, name) for name in same - {"decay", "warmup_steps"}}
        return TrainingOptions(
            **given,
            **others,
            batch=batch,
            learning_rate=lr if self.lr is None else self.lr,
            decay=self.decay or decay,  # type: ignore[arg-type]
            warmup_steps=self.steps // 20 if self.warmup_steps is None else self.warmup_steps,
        )


def train_job(name: str, options: TrainingFlags, recipe: "Recipe", training: "TrainingOptions") -> Outcome:
    """Run the loop; what the job hands to `run.json`."""
    from engine.training.run import run_training

    report = run_training(
        recipe,
        training,
        options.output_location,
        overwrite=options.overwrite,
        address=options.address,
        progress=ProgressLine(name),
    )
    return Outcome(
        lineage=report.lineage_id,
        counts_out={"steps": report.steps, "tokens": report.tokens},
        throughput={
            "tokens_per_second": report.tokens / max(report.seconds, 1e-9),
            "steps_per_second": report.steps / max(report.seconds, 1e-9),
        },
        facts={"first_step": report.first_step, "final": report.final},
        did_work=report.did_work,
        peak_memory_bytes=report.peak_memory_bytes,
    )
