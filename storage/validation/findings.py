"""What validation says: findings a person can act on, as text and as JSON."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from storage.errors import InputError

Severity = Literal["error", "warning", "info"]
_ORDER: dict[Severity, int] = {"error": 0, "warning": 1, "info": 2}


@dataclass(frozen=True)
class Finding:
    """One thing about one file. An error stops `ingest`; a warning names what to expect; info says what
    was done.
    """

    severity: Severity
    code: str
    """A stable short name to filter by, `not-counts`."""
    where: str
    """The part of the file: `X`, `obs['batch']`, `var['gene_id']`."""
    how_many: int
    """Values, columns, genes or cells concerned; 0 when counting makes no sense."""
    message: str
    fix: str = ""

    def text(self) -> str:
        line = f"{self.severity:<7} {self.code}  {self.where}: {self.message}"
        return f"{line}\n        {self.fix}" if self.fix else line


@dataclass
class FileReport:
    """All findings about one input file, worst first."""

    path: str
    format: str = "unknown"
    n_cells: int = 0
    n_columns: int = 0
    counts: str = ""
    """Where the counts were found: `X`, `raw`, `layer:NAME`."""
    genes: str = ""
    """The match report of `storage.genes`."""
    vocabulary: str = ""
    findings: list[Finding] = field(default_factory=list)

    @property
    def errors(self) -> list[Finding]:
        return [finding for finding in self.findings if finding.severity == "error"]

    def add(self, findings: Sequence[Finding]) -> None:
        self.findings = sorted([*self.findings, *findings], key=lambda finding: _ORDER[finding.severity])

    def as_json(self) -> dict[str, Any]:
        return asdict(self)

    def text(self) -> str:
        about = f"{self.path}: {self.format}, {self.n_cells:,} cells x {self.n_columns:,} columns"
        lines = [about + (f", counts from {self.counts}" if self.counts else "")]
        lines += [f"genes   {self.genes}"] if self.genes else []
        lines += [f"model   {self.vocabulary}"] if self.vocabulary else []
        lines += [finding.text() for finding in self.findings] or ["ok      nothing to report"]
        return "\n".join(lines)


def refuse_errors(reports: Sequence[FileReport]) -> None:
    """Raise InputError with every error finding of every file; warnings do not stop anything."""
    lines = [f"{report.path}: {finding.text()}" for report in reports for finding in report.errors]
    if lines:
        raise InputError("these inputs cannot be ingested:\n" + "\n".join(lines))
