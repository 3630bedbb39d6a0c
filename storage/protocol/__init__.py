"""The log of a dataset: plan and lineage, leases, records, snapshots. `storage.commits` writes with it."""
