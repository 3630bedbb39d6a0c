"""Validation of input files: rules, findings, and the survey that runs them. See docs/guides/cells.md."""

from storage.validation.counts import ValueScan
from storage.validation.findings import FileReport, Finding, refuse_errors
from storage.validation.survey import Choices, Survey, Vocabulary, survey

__all__ = ["Choices", "FileReport", "Finding", "Survey", "ValueScan", "Vocabulary", "refuse_errors", "survey"]
