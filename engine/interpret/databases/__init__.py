"""Public databases of what genes do and cause, read into one table of gene-term associations.

One module per file format; `registry` lists the sources, `rules` the presets, `build` writes the dataset that
`Databases` (from `storage.databases`) reads:

    databases = Databases.open("my/databases")
    databases.sources                      # ["opentargets", "hpo", ..., "gmt-h.all.v7.0.symbols"]
    databases.associations("gencc")        # gene, term_id, source, evidence, score, raw_term, release
    databases.terms("hpo")                 # term_id, name, parents, group
    databases.edges()                      # STRING: gene_a, gene_b, score
    databases.evidence_group("gencc")      # "Mendelian disease"
    databases.licences()                   # one row per source
    terms, associations = read_gmt("h.all.v7.0.symbols.gmt")    # without a dataset
"""

from engine.interpret.databases.gmt import read_gmt
from storage.databases import Databases

__all__ = ["Databases", "read_gmt"]
