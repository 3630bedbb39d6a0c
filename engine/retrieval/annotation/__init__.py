"""Annotating a cell store with a joint model of cells and texts: one h5ad that CELLxGENE opens."""
