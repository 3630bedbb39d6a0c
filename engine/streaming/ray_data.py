"""What all our Ray Data pipelines agree on. Imports no PyTorch: actors that only hand rows on need none."""

from __future__ import annotations

import logging

from ray.data import DataContext

from engine.streaming.capacity import IO_CPUS, RETRIES

TASK_OPTIONS = {"num_cpus": IO_CPUS, "max_retries": RETRIES}

# A row is a whole member.
BY_MEMBER = {"batch_size": 1, "batch_format": "pyarrow", "zero_copy_batch": True}


def quiet_context() -> DataContext:
    """A copy of Ray Data's settings under which it says nothing on its own."""
    context = DataContext.get_current().copy()
    context.enable_progress_bars = False
    # Its notices of starting and ending would stand between our lines of progress.
    logging.getLogger("ray.data").setLevel(logging.WARNING)
    return context
