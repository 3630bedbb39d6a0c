"""All sources: what each is, under which licence, which files it is made of and how they are read."""

from __future__ import annotations

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
    reactome,
    string,
)
from engine.interpret.databases.source import (
    COMMON,
    MENDELIAN,
    MIXED,
    NETWORK,
    PATHWAY,
    PHENOTYPE,
    Role,
    Source,
)

_MONDO = Role("mondo", ("mondo.obo", "mondo.*.obo"))
_CC_BY = "CC BY 4.0"
_CC_BY_URL = "https://creativecommons.org/licenses/by/4.0/"
_CC0_URL = "https://creativecommons.org/publicdomain/zero/1.0/"


def _parts(name: str, older: str, modern: str) -> Role:
    patterns = (f"*{modern}/*.parquet", f"*{modern}*.parquet", f"*{older}/*.parquet", f"*{older}*.parquet")
    return Role(name, patterns, parts=True)


SOURCES = (
    Source(
        "opentargets",
        "Open Targets Platform",
        MIXED,
        "CC0 1.0",
        _CC0_URL,
        "Open Targets Platform, https://platform.opentargets.org",
        (
            _parts("overall_indirect", "associationByOverallIndirect", "association_overall_indirect"),
            _parts("overall_direct", "associationByOverallDirect", "association_overall_direct"),
            _parts(
                "by_source_indirect", "associationByDatasourceIndirect", "association_by_datasource_indirect"
            ),
            _parts("by_source_direct", "associationByDatasourceDirect", "association_by_datasource_direct"),
            Role("diseases", ("*/disease/*.parquet", "disease.parquet"), parts=True),
            Role("targets", ("*/target/*.parquet", "target.parquet"), parts=True),
        ),
        ("overall_indirect", "overall_direct", "by_source_indirect", "by_source_direct"),
        opentargets.read,
    ),
    Source(
        "hpo",
        "Human Phenotype Ontology: phenotypes",
        PHENOTYPE,
        "HPO licence: free with attribution, not to be altered",
        "https://hpo.jax.org/license",
        "Human Phenotype Ontology, https://hpo.jax.org",
        (
            Role("annotated", ("genes_to_phenotype.txt", "genes_to_phenotype*.txt")),
            Role("propagated", ("phenotype_to_genes.txt", "phenotype_to_genes*.txt")),
            Role("diseases", ("genes_to_disease.txt", "genes_to_disease*.txt")),
            Role("ontology", ("hp.obo", "hp-base.obo", "hp.*.obo")),
        ),
        ("annotated", "propagated"),
        hpo.read,
    ),
    Source(
        "hpo-diseases",
        "Human Phenotype Ontology: diseases",
        MENDELIAN,
        "HPO licence: free with attribution, not to be altered",
        "https://hpo.jax.org/license",
        "Human Phenotype Ontology, https://hpo.jax.org",
        (Role("diseases", ("genes_to_disease.txt", "genes_to_disease*.txt")),),
        ("diseases",),
        hpo.read_diseases,
    ),
    Source(
        "gwas",
        "NHGRI-EBI GWAS Catalog",
        COMMON,
        "EMBL-EBI terms of use",
        "https://www.ebi.ac.uk/about/terms-of-use",
        "NHGRI-EBI GWAS Catalog, https://www.ebi.ac.uk/gwas",
        (
            Role(
                "associations",
                (
                    "gwas-catalog-associations_ontology-annotated-full",
                    "gwas-catalog-download-associations-alt-full.tsv",
                    "gwas-catalog*associations*.tsv",
                    "gwas_catalog_v1*.tsv",
                ),
            ),
        ),
        ("associations",),
        gwas.read,
    ),
    Source(
        "disgenet",
        "DisGeNET",
        MIXED,
        "2015: ODbL 1.0; v7: CC BY-NC-SA 4.0; since 2023 by contract, not to be passed on",
        "https://disgenet.com",
        "DisGeNET, https://disgenet.com",
        (
            Role(
                "table",
                (
                    "curated_gene_disease_associations.tsv",
                    "curated_gene_disease_associations*",
                    "all_gene_disease_associations*",
                ),
            ),
            Role("pages", ("disgenet*.json", "*gda_summary*.json"), several=True),
        ),
        ("table", "pages"),
        disgenet.read,
        redistribute=False,
    ),
    Source(
        "monarch",
        "Monarch knowledge graph",
        MENDELIAN,
        "mixed: the licences of its sources (OMIM, ClinGen, Orphanet) carry through",
        "https://monarchinitiative.org",
        "Monarch Initiative, https://monarchinitiative.org",
        (
            Role(
                "causal",
                (
                    "causal_gene_to_disease_association.all.tsv",
                    "causal_gene_to_disease_association*.tsv",
                    "gene_disease.causal*.tsv",
                ),
            ),
            Role(
                "noncausal",
                ("gene_disease.noncausal.tsv", "*noncausal*.tsv", "correlated_gene_to_disease*.tsv"),
            ),
            Role("edges", ("monarch-kg_edges.tsv", "monarch-kg_edges*.tsv")),
            Role("nodes", ("monarch-kg_nodes.tsv", "monarch-kg_nodes*.tsv")),
            _MONDO,
        ),
        ("causal", "noncausal", "edges"),
        monarch.read,
    ),
    Source(
        "string",
        "STRING protein network",
        NETWORK,
        _CC_BY,
        _CC_BY_URL,
        "STRING, https://string-db.org",
        (
            Role(
                "links",
                (
                    "9606.protein.links.detailed.*.txt",
                    "9606.protein.links.full.*.txt",
                    "9606.protein.links.v*.txt",
                ),
            ),
            Role("info", ("9606.protein.info.*.txt",)),
        ),
        ("links",),
        string.read,
    ),
    Source(
        "omim",
        "OMIM",
        MENDELIAN,
        "genemap2: OMIM's terms, not to be passed on; mim2gene_medgen: NCBI, public domain",
        "https://www.omim.org/help/agreement",
        "OMIM, https://omim.org, by NCBI's mim2gene_medgen or a licensed copy of genemap2",
        (
            Role("genemap", ("genemap2.txt", "genemap2*.txt")),
            Role("medgen", ("mim2gene_medgen", "mim2gene_medgen*")),
            _MONDO,
        ),
        ("genemap", "medgen"),
        omim.read,
        redistribute=False,
    ),
    Source(
        "orphanet",
        "Orphanet rare diseases",
        MENDELIAN,
        _CC_BY,
        _CC_BY_URL,
        "Orphadata, https://www.orphadata.com",
        (Role("genes", ("en_product6.xml", "*product6*.xml")),),
        ("genes",),
        orphanet.read,
    ),
    Source(
        "clinvar",
        "ClinVar",
        MENDELIAN,
        "public domain (NCBI)",
        "https://www.ncbi.nlm.nih.gov/home/about/policies/",
        "ClinVar, https://www.ncbi.nlm.nih.gov/clinvar",
        (
            Role("summary", ("variant_summary.txt", "variant_summary*.txt")),
            Role("vcf", ("clinvar.vcf", "clinvar*.vcf")),
            _MONDO,
        ),
        ("summary", "vcf"),
        clinvar.read,
    ),
    Source(
        "gencc",
        "Gene Curation Coalition",
        MENDELIAN,
        "CC0 1.0",
        _CC0_URL,
        "The Gene Curation Coalition, https://thegencc.org",
        (
            Role(
                "submissions", ("gencc-submissions.csv", "gencc-submissions*.csv", "gencc-submissions*.tsv")
            ),
            _MONDO,
        ),
        ("submissions",),
        gencc.read,
    ),
    Source(
        "reactome",
        "Reactome pathways",
        PATHWAY,
        "CC0 1.0 (annotations)",
        "https://reactome.org/license",
        "Reactome, https://reactome.org",
        (
            Role("sets", ("ReactomePathways.gmt", "ReactomePathways*.gmt")),
            Role("hierarchy", ("ReactomePathwaysRelation.txt",)),
        ),
        ("sets",),
        reactome.read,
    ),
    Source(
        "kegg",
        "KEGG pathways",
        PATHWAY,
        "academic use only, not to be passed on",
        "https://www.kegg.jp/kegg/legal.html",
        "KEGG, https://www.kegg.jp",
        (
            Role("links", ("kegg_link_hsa_pathway.txt", "kegg*link*")),
            Role("names", ("kegg_list_pathway_hsa.txt", "kegg*list*")),
        ),
        ("links",),
        kegg.read,
        redistribute=False,
        by_default=False,
    ),
    Source(
        "go",
        "Gene Ontology annotations",
        PATHWAY,
        _CC_BY,
        _CC_BY_URL,
        "Gene Ontology, https://geneontology.org",
        (
            Role("annotations", ("goa_human.gaf", "goa_human*.gaf")),
            Role("ontology", ("go-basic.obo", "go.obo")),
        ),
        ("annotations",),
        go.read,
    ),
)

GMT = Source(
    "gmt",
    "gene sets",
    PATHWAY,
    "of whoever made the file; it does not say",
    "",
    "the maker of the file",
    (Role("sets", ("*.gmt",)),),
    ("sets",),
    gmt.read,
)
HGNC = Role("hgnc", ("hgnc_complete_set.txt", "hgnc_complete_set*.txt", "non_alt_loci_set*.txt"))
NAMES = (*(source.name for source in SOURCES), GMT.name)
