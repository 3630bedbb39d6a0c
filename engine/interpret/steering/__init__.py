"""Steering: what editing features of an autoencoder does to what an encoder predicts and embeds."""

from engine.interpret.steering.edits import Edit, parse_edits
from engine.interpret.steering.in_process import steer
from engine.interpret.steering.tables import EffectTables

__all__ = ["Edit", "EffectTables", "parse_edits", "steer"]
