"""Which rows count, as named presets: one set of rules for each source.

recommended: what the sources themselves, or those who build on them, hold for evidence; what an expression
model would find in its own mirror (expression atlases, coexpression, GO's IEP) is left out.
strict: only the strongest evidence.
loose: all that is asserted at all; for looking, not for claims.
published: each source by itself, scores and thresholds as it publishes them, no rule of one file on another;
for comparing with other readers of the same files.
"""

from __future__ import annotations

from typing import Any, Literal, get_args

from engine.interpret.databases import (
    clinvar,
    disgenet,
    gencc,
    gmt,
    go,
    gwas,
    hpo,
    kegg,
    monarch,
    omim,
    opentargets,
    orphanet,
    string,
)

Preset = Literal["recommended", "strict", "loose", "published"]
PRESETS: tuple[str, ...] = get_args(Preset)

_RECOMMENDED: dict[str, Any] = {
    "opentargets": opentargets.Rules(),
    "hpo": hpo.Rules(),
    "hpo-diseases": hpo.DiseaseRules(),
    "gwas": gwas.Rules(),
    "disgenet": disgenet.Rules(),
    "monarch": monarch.Rules(),
    "string": string.Rules(),
    "omim": omim.Rules(),
    "orphanet": orphanet.Rules(),
    "clinvar": clinvar.Rules(),
    "gencc": gencc.Rules(),
    "reactome": gmt.Rules(),
    "kegg": kegg.Rules(),
    "go": go.Rules(),
    "gmt": gmt.Rules(),
}
_CHANGED: dict[str, dict[str, Any]] = {
    "recommended": {},
    "strict": {
        "opentargets": opentargets.Rules(threshold=0.5, without=()),
        "disgenet": disgenet.Rules(score=0.5),
        "monarch": monarch.Rules(predicates=("biolink:causes",)),
        "string": string.Rules(threshold=900),
        "omim": omim.Rules(susceptibility=False),
        "orphanet": orphanet.Rules(types=orphanet.CAUSAL[:4]),
        "clinvar": clinvar.Rules(stars=3, genes=1),
        "gencc": gencc.Rules(classifications=("Definitive", "Strong")),
        "go": go.Rules(without=("ND", "IEP", "IEA")),
    },
    "loose": {
        "opentargets": opentargets.Rules(threshold=0.3, without=()),
        "hpo": hpo.Rules(mendelian=False),
        "hpo-diseases": hpo.DiseaseRules(types=("MENDELIAN", "POLYGENIC", "UNKNOWN")),
        "gwas": gwas.Rules(intergenic="nearest"),
        "disgenet": disgenet.Rules(score=0.1, curated=False),
        "string": string.Rules(threshold=400, without=()),
        "clinvar": clinvar.Rules(stars=1, variants=1),
        "gencc": gencc.Rules(
            classifications=("Definitive", "Strong", "Moderate", "Supportive", "Limited"),
            without_conflicts=False,
        ),
        "go": go.Rules(without=("ND",)),
    },
    "published": {
        "opentargets": opentargets.Rules(threshold=0.5, without=()),
        "hpo": hpo.Rules(mendelian=False),
        "string": string.Rules(without=()),
        "clinvar": clinvar.Rules(variants=1),
        "gencc": gencc.Rules(without_conflicts=False),
        "go": go.Rules(without=("ND",), propagate=False),
    },
}


def rules_of(preset: str, source: str) -> Any:
    """The rules of one source; those of `gmt` for every GMT file."""
    name = "gmt" if source.startswith("gmt-") else source
    return _CHANGED[preset].get(name, _RECOMMENDED[name])
