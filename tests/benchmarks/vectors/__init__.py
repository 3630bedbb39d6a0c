"""Inputs and alternatives of the index benchmark."""
