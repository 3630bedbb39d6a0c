"""One file a command. `python -m jobs.<name>` and `syncytium <name>` are the same."""
