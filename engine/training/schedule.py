"""What changes over a run as plain functions of the step, so that a resumed run needs no scheduler state."""

import math

from engine.training.options import TrainingOptions


def learning_rate(step: int, options: TrainingOptions) -> float:
    """Learning rate of optimiser step `step` (0 is the first).

    Linear warm-up over `warmup_steps` (step 0 already moves: rate/warmup), then the peak until `decay_from`
    of the run, then the decay, which reaches `final_fraction` of the peak at the last step.
    """
    peak, last = options.learning_rate, options.steps - 1
    if step < options.warmup_steps:
        return peak * (step + 1) / options.warmup_steps
    decay_start = max(options.warmup_steps, round(options.decay_from * options.steps))
    if options.decay == "constant" or step < decay_start or last <= decay_start:
        return peak
    progress = min((step - decay_start) / (last - decay_start), 1.0)
    shape = (1 + math.cos(math.pi * progress)) / 2 if options.decay == "cosine" else 1 - progress
    return peak * (options.final_fraction + (1 - options.final_fraction) * shape)


def ramp(step: int, steps: int) -> float:
    """From 0 at step 0 to 1 at `steps` and after."""
    return 1.0 if step >= steps else step / steps
