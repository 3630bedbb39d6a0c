"""Attribution: which features of an autoencoder an encoder's loss, prediction or embedding rests on."""

from engine.interpret.attribution.metrics import Metric
from engine.interpret.attribution.passes import Attribution, Depth, attribute

__all__ = ["Attribution", "Depth", "Metric", "attribute"]
