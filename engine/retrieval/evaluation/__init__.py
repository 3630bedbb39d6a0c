"""How good a joint model of cells and texts is on labelled cells, beside baselines that read no text."""
