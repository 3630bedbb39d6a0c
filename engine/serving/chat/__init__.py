"""Conversations about cells: evidence first, then words that cite it."""
