"""Where each file is published, with mirrors, and which key it needs."""

from __future__ import annotations

from dataclasses import dataclass

OPEN_TARGETS_RELEASE = "26.06"
STRING_RELEASE = "v12.0"


@dataclass(frozen=True)
class Remote:
    """One file, or (`parts`) a page of links to the Parquet files of a dataset.

    name: path under the folder of downloads. urls: the publisher's address, then mirrors; `{key}` in one is
    the key. key: the environment variable that has it. restricted: asks for a licence to be accepted first.
    md5: address of the publisher's checksum.
    """

    source: str
    name: str
    urls: tuple[str, ...]
    key: str = ""
    restricted: bool = False
    md5: str = ""
    parts: bool = False
    by_default: bool = True


_OT = f"https://ftp.ebi.ac.uk/pub/databases/opentargets/platform/{OPEN_TARGETS_RELEASE}/output"
_HPO = "http://purl.obolibrary.org/obo/hp"
_HPO_MIRROR = "https://github.com/obophenotype/human-phenotype-ontology/releases/latest/download"
_MONARCH = "https://data.monarchinitiative.org/monarch-kg/latest/tsv"
_MONARCH_MIRROR = "https://storage.googleapis.com/monarch-archive/monarch-kg/latest/tsv"
_MONDO = (
    "http://purl.obolibrary.org/obo/mondo.obo",
    "https://github.com/monarch-initiative/mondo/releases/latest/download/mondo.obo",
)
_CLINVAR = "https://ftp.ncbi.nlm.nih.gov/pub/clinvar/tab_delimited/variant_summary.txt.gz"
_GWAS = "gwas/releases/latest/gwas-catalog-associations_ontology-annotated-full.zip"
_REACTOME = ("https://reactome.org/download/current", "https://download.reactome.org/current")


def _open_targets(name: str) -> Remote:
    return Remote(
        "opentargets", f"opentargets/{OPEN_TARGETS_RELEASE}/{name}", (f"{_OT}/{name}/",), parts=True
    )


def _hpo(name: str, *, inside: str = "hpoa/") -> Remote:
    return Remote("hpo", f"hpo/{name}", (f"{_HPO}/{inside}{name}", f"{_HPO_MIRROR}/{name}"))


def _monarch(name: str) -> Remote:
    return Remote(
        "monarch", f"monarch/{name.rsplit('/', 1)[-1]}", (f"{_MONARCH}/{name}", f"{_MONARCH_MIRROR}/{name}")
    )


def _string(name: str) -> Remote:
    file = f"9606.{name}.{STRING_RELEASE}.txt.gz"
    hosts = ("https://stringdb-downloads.org/download", "https://stringdb-static.org/download")
    return Remote(
        "string", f"string/{file}", tuple(f"{host}/{name}.{STRING_RELEASE}/{file}" for host in hosts)
    )


REMOTES: tuple[Remote, ...] = (
    Remote(
        "hgnc",
        "hgnc/hgnc_complete_set.txt",
        (
            "https://storage.googleapis.com/public-download-files/hgnc/tsv/tsv/hgnc_complete_set.txt",
            "https://ftp.ebi.ac.uk/pub/databases/genenames/hgnc/tsv/hgnc_complete_set.txt",
        ),
    ),
    Remote("mondo", "mondo/mondo.obo", _MONDO),
    _open_targets("association_by_datasource_indirect"),
    _open_targets("association_overall_indirect"),
    _open_targets("disease"),
    _open_targets("target"),
    _hpo("genes_to_phenotype.txt"),
    _hpo("genes_to_disease.txt"),
    _hpo("hp.obo", inside=""),
    Remote(
        "gwas",
        "gwas/gwas-catalog-associations_ontology-annotated-full.zip",
        (f"https://ftp.ebi.ac.uk/pub/databases/{_GWAS}", f"http://ftp.ebi.ac.uk/pub/databases/{_GWAS}"),
    ),
    _monarch("all_associations/causal_gene_to_disease_association.all.tsv.gz"),
    _monarch("gene_associations/gene_disease.noncausal.tsv.gz"),
    _string("protein.links.detailed"),
    _string("protein.info"),
    Remote("omim", "omim/mim2gene_medgen", ("https://ftp.ncbi.nlm.nih.gov/gene/DATA/mim2gene_medgen",)),
    Remote(
        "omim",
        "omim/genemap2.txt",
        ("https://data.omim.org/downloads/{key}/genemap2.txt",),
        key="OMIM_API_KEY",
        restricted=True,
    ),
    Remote("orphanet", "orphanet/en_product6.xml", ("https://www.orphadata.com/data/xml/en_product6.xml",)),
    Remote("clinvar", "clinvar/variant_summary.txt.gz", (_CLINVAR,), md5=f"{_CLINVAR}.md5"),
    Remote(
        "gencc",
        "gencc/gencc-submissions.csv",
        (
            "https://thegencc.org/download/action/submissions-export-csv?format=new",
            "https://search.thegencc.org/download/action/submissions-export-csv?format=new",
        ),
    ),
    Remote(
        "reactome",
        "reactome/ReactomePathways.gmt.zip",
        tuple(f"{host}/ReactomePathways.gmt.zip" for host in _REACTOME),
    ),
    Remote(
        "reactome",
        "reactome/ReactomePathwaysRelation.txt",
        tuple(f"{host}/ReactomePathwaysRelation.txt" for host in _REACTOME),
    ),
    Remote(
        "kegg",
        "kegg/kegg_link_hsa_pathway.txt",
        ("https://rest.kegg.jp/link/hsa/pathway",),
        restricted=True,
        by_default=False,
    ),
    Remote(
        "kegg",
        "kegg/kegg_list_pathway_hsa.txt",
        ("https://rest.kegg.jp/list/pathway/hsa",),
        restricted=True,
        by_default=False,
    ),
    Remote("go", "go/goa_human.gaf.gz", ("https://current.geneontology.org/annotations/goa_human.gaf.gz",)),
    Remote(
        "go",
        "go/go-basic.obo",
        (
            "http://purl.obolibrary.org/obo/go/go-basic.obo",
            "https://current.geneontology.org/ontology/go-basic.obo",
        ),
    ),
)
# Pages of at most 100 rows; the key goes into the header Authorization as it is.
DISGENET = Remote(
    "disgenet",
    "disgenet",
    ("https://api.disgenet.com/api/v1/gda/summary",),
    key="DISGENET_API_KEY",
    restricted=True,
    by_default=False,
)
# Read by several sources: fetched with any of them.
SHARED = {"hgnc": None, "mondo": ("monarch", "omim", "clinvar", "gencc")}
