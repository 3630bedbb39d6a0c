"""Finding cells by their vectors: building an index, conditions on annotations, and searching it."""
