"""Which features two autoencoders share: over seeds, layers and models; no F x F matrix exists anywhere."""

from engine.interpret.comparison.matching import NOBODY, Matching, match
from engine.interpret.comparison.run import Comparison, ComparisonOptions, compare, open_subjects
from engine.interpret.comparison.similarity import CodeCorrelation, DecoderCosine, Similarity
from engine.interpret.comparison.stability import SAME_ABOVE, Stability, stability_over_seeds

__all__ = [
    "NOBODY",
    "SAME_ABOVE",
    "CodeCorrelation",
    "Comparison",
    "ComparisonOptions",
    "DecoderCosine",
    "Matching",
    "Similarity",
    "Stability",
    "compare",
    "match",
    "open_subjects",
    "stability_over_seeds",
]
