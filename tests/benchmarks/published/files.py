"""Made-up files in the layouts of published databases, as large as one asks: for time and memory.

Genes, conditions and scores are drawn at random; nothing of a database is in them.
"""

import gzip
import os
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet

GENES, CONDITIONS, PROTEINS, DISEASES, TARGETS = 19_000, 12_000, 19_699, 30_000, 60_000
_CLINVAR = (
    "#AlleleID", "Type", "Name", "GeneID", "GeneSymbol", "HGNC_ID", "ClinicalSignificance",
    "ClinSigSimple", "LastEvaluated", "RS# (dbSNP)", "nsv/esv (dbVar)", "RCVaccession", "PhenotypeIDS",
    "PhenotypeList", "Origin", "OriginSimple", "Assembly", "ChromosomeAccession", "Chromosome", "Start",
    "Stop", "ReferenceAllele", "AlternateAllele", "Cytogenetic", "ReviewStatus", "NumberSubmitters",
    "Guidelines", "TestedInGTR", "OtherIDs", "SubmitterCategories", "VariationID", "PositionVCF",
    "ReferenceAlleleVCF", "AlternateAlleleVCF", "SomaticClinicalImpact",
    "SomaticClinicalImpactLastEvaluated", "ReviewStatusClinicalImpact", "Oncogenicity",
    "OncogenicityLastEvaluated", "ReviewStatusOncogenicity", "SCVsForAggregateGermlineClassification",
    "SCVsForAggregateSomaticClinicalImpact", "SCVsForAggregateOncogenicityClassification",
)  # fmt: skip
# How often each is, roughly as in the real file: most variants are of uncertain significance.
_SIGNIFICANCE = (
    *("Uncertain significance",) * 10,
    *("Likely benign", "Benign") * 3,
    *("Pathogenic", "Likely pathogenic"),
    "Conflicting classifications of pathogenicity",
    "not provided",
)
_STATUS = (
    *("criteria provided, single submitter",) * 6,
    *("criteria provided, multiple submitters, no conflicts",) * 3,
    "no assertion criteria provided",
)
# Submissions and names: what makes the real file 1 KB a row, and does not compress away.
_FILLER = 500


def clinvar(folder: Path, rows: int) -> Path:
    """variant_summary.txt.gz of 43 columns; two rows an allele, one for each assembly."""
    rng = np.random.default_rng(0)
    noise = os.urandom(1 << 19).hex()
    path = folder / "variant_summary.txt.gz"
    with gzip.open(path, "wt", compresslevel=1) as lines:
        lines.write("\t".join(_CLINVAR) + "\n")
        for first in range(0, rows // 2, 10_000):
            gene = rng.integers(0, GENES, 10_000).tolist()
            which = rng.integers(0, 3, 10_000).tolist()
            kind = rng.integers(0, len(_SIGNIFICANCE), 10_000).tolist()
            status = rng.integers(0, len(_STATUS), 10_000).tolist()
            start = rng.integers(0, len(noise) - _FILLER, 10_000).tolist()
            for place in range(min(10_000, rows // 2 - first)):
                condition = (gene[place] * 3 + which[place]) % CONDITIONS
                about = noise[start[place] : start[place] + _FILLER]
                row = _row(first + place, gene[place], condition, about)
                row[6], row[24] = _SIGNIFICANCE[kind[place]], _STATUS[status[place]]
                for row[16] in ("GRCh37", "GRCh38"):
                    lines.write("\t".join(row) + "\n")
    return path


def _row(allele: int, gene: int, condition: int, about: str) -> list[str]:
    """Values in the order of the columns; significance, review status and assembly are still to be set."""
    row = ["-"] * len(_CLINVAR)
    row[:6] = str(allele), "SNV", f"NM_{gene:06d}.1:c.{allele}A>G", str(gene), f"GENE{gene}", f"HGNC:{gene}"
    row[12] = f"MONDO:MONDO:{condition:07d},MedGen:C{condition:07d}|MedGen:C3661900"
    row[13] = f"condition {condition}|not provided"
    row[28] = about
    return row


def string(folder: Path, rows: int) -> Path:
    """protein.links.detailed and protein.info; every pair in both directions."""
    rng = np.random.default_rng(0)
    names = np.array([f"9606.ENSP{number:011d}" for number in range(PROTEINS)], object)
    key = np.unique(rng.integers(0, PROTEINS * PROTEINS, int(rows * 0.53)))
    one, other = np.divmod(key, PROTEINS)
    one, other = one[one < other], other[one < other]
    key = np.unique(np.concatenate([one * PROTEINS + other, rng.integers(0, PROTEINS**2, rows)]))
    one, other = np.divmod(key, PROTEINS)
    chosen = rng.permutation(np.flatnonzero(one < other))[: rows // 2]
    one, other = one[chosen], other[chosen]
    scores = {
        name: rng.integers(0, 1000, len(one)) * (rng.random(len(one)) < share)
        for name, share in (
            ("neighborhood", 0.02), ("fusion", 0.005), ("cooccurence", 0.02), ("coexpression", 0.5),
            ("experimental", 0.04), ("database", 0.02), ("textmining", 0.8),
        )
    }  # fmt: skip
    scores["combined_score"] = np.maximum.reduce(list(scores.values()))
    path = folder / "9606.protein.links.detailed.v12.0.txt.gz"
    options = pa.csv.WriteOptions(include_header=False, delimiter=" ", quoting_style="none")
    with pa.CompressedOutputStream(str(path), "gzip") as out:
        out.write(" ".join(["protein1", "protein2", *scores]).encode() + b"\n")
        for ends in ((one, other), (other, one)):
            for first in range(0, len(one), 1 << 20):
                part = slice(first, first + (1 << 20))
                columns = [pa.array(names[side[part]]) for side in ends]
                columns += [pa.array(score[part]) for score in scores.values()]
                table = pa.table(columns, names=["protein1", "protein2", *scores])
                pa.csv.write_csv(table, out, options)
    info = [f"{name}\tGENE{number}\t100\tmade up" for number, name in enumerate(names)]
    (folder / "9606.protein.info.v12.0.txt").write_text(
        "\n".join(["#string_protein_id\tpreferred_name\tprotein_size\tannotation", *info, ""])
    )
    return path


def open_targets(folder: Path, rows: int, parts: int = 20) -> Path:
    """26.06/output/association_by_datasource_indirect in parts, and names of the targets."""
    rng = np.random.default_rng(0)
    sources = np.array(
        ["europepmc", "expression_atlas", "eva", "gwas_credible_sets", "impc", "orphanet"], object
    )
    place = folder / "26.06" / "output"
    (place / "association_by_datasource_indirect").mkdir(parents=True)
    (place / "target").mkdir()
    diseases = np.array([f"MONDO_{number:07d}" for number in range(DISEASES)], object)
    targets = np.array([f"ENSG{number:011d}" for number in range(TARGETS)], object)
    size = rows // parts
    for part in range(parts):
        source = sources[rng.choice(len(sources), size, p=[0.45, 0.15, 0.1, 0.15, 0.1, 0.05])]
        table = pa.table(
            {
                "diseaseId": diseases[rng.integers(0, DISEASES, size)],
                "targetId": targets[rng.integers(0, TARGETS, size)],
                "aggregationType": np.full(size, "datasourceId", object),
                "aggregationValue": source,
                "associationScore": rng.beta(0.6, 4, size),
                "evidenceCount": rng.integers(1, 9, size),
            }
        )
        pa.parquet.write_table(
            table, place / "association_by_datasource_indirect" / f"part-{part:05d}.parquet"
        )
    symbols = pa.table({"id": targets, "approvedSymbol": [f"GENE{number}" for number in range(TARGETS)]})
    pa.parquet.write_table(symbols, place / "target" / "part-00000.parquet")
    return place
