"""Enrichment of features' genes: exact tests against every term, honest nulls, hierarchy and network."""
