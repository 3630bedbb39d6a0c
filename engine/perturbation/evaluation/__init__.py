"""Scoring predictions of perturbations against real cells, always beside what needs no model."""
