from tests.streaming.inputs import (  # noqa: F401
    geneformer_model,
    genes,
    small_counts,
    small_store,
    tahoe_model,
)
