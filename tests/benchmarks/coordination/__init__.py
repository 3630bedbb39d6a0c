"""What the benchmark of the control plane drives: simulated workers, and other ways of keeping records."""
