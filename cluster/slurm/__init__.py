"""SLURM: the script that is submitted, and what the queue says of it."""
