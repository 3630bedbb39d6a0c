"""`syncytium enrich`: which terms of which databases the genes of each feature are in."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

import tyro

from jobs.anatomy import JobOptions, Outcome, ProgressLine, comma_separated, launch
from storage.errors import InputError

if TYPE_CHECKING:
    from engine.interpret.enrichment.namer import Namer

LEAST = {"top_genes": 3, "min_overlap": 1, "smallest_term": 1, "listed": 0, "permutations": 0}

# Given more than once, or with several values, or both.
Paths = tyro.conf.UseAppendAction[list[tuple[str, ...]]]


@dataclass(kw_only=True)
class Options(JobOptions):
    """Fisher's exact test of every feature's genes against every term, corrected over all of them, beside
    what shuffled gene labels give. Writes tables, feature_validations.json and validation_summary.csv."""

    features: str
    """Feature tables, as `features` writes them."""
    databases: str | None = None
    """Gene-term associations, as `databases` writes them."""
    gmt: Paths = field(default_factory=list)
    """Files of gene sets: --gmt A.gmt B.gmt."""
    only: str = ""
    """Names of the sources to use, e.g. gencc,hpo. Default: all."""
    baseline: Paths = field(default_factory=list)
    """Feature tables of something that should mean less (an untrained autoencoder, raw neurons): their rates
    stand beside the features' own."""
    permutations: int = 20
    """Shuffles of the gene labels among equally annotated, equally expressed genes. 0: none."""
    top_genes: int = 50
    """First genes of a feature that are its list."""
    alpha: float = 0.05
    """False discovery rate up to which a term counts as significant."""
    min_overlap: int = 3
    """Significant terms with fewer shared genes are not reported as such; they are tested all the same."""
    smallest_term: int = 5
    """Terms with fewer genes in the background are not tested."""
    largest_term: int | None = None
    """Terms with more genes in the background are not tested. Default: 500; 1,000 for phenotypes and
    diseases."""
    listed: int = 10
    """Terms of each source kept for each feature even when they are not significant."""
    min_score: float = 700.0
    """Network edges with a lower score (of 1,000) do not count."""
    ranked: str = ""
    """Numbers of features, "4711,88", that pre-ranked GSEA (gseapy) tests as well, without a cut in their
    lists. Make the feature tables with as many --top-genes as are to be ranked."""
    label_url: str = ""
    """OpenAI-compatible API ("http://localhost:8000/v1") that names features from the same evidence; it is
    sent names of genes, terms and cell labels. The key comes from SYNCYTIUM_LABEL_KEY or OPENAI_API_KEY."""
    label_model: str = ""
    """Name of the model there."""
    gene_key: Literal["auto", "name", "id"] = "auto"
    """What genes are compared by. auto: whichever the sources know more of."""


def run(options: Options) -> Outcome:
    from engine.interpret.enrichment.inputs import open_knowledge
    from engine.interpret.enrichment.run import EnrichmentOptions, enrich

    output = options.output_location
    _require_sensible(options)
    knowledge = open_knowledge(options.databases, _flat(options.gmt), comma_separated(options.only))
    result = enrich(
        options.features,
        knowledge,
        EnrichmentOptions(
            top_genes=options.top_genes,
            alpha=options.alpha,
            min_overlap=options.min_overlap,
            smallest_term=options.smallest_term,
            largest_term=options.largest_term,
            listed=options.listed,
            permutations=options.permutations,
            min_score=options.min_score,
            ranked=_ranked(options.ranked),
            gene_key=options.gene_key,
            seed=options.seed,
        ),
        output,
        baselines=_flat(options.baseline),
        namer=_namer(options),
        address=options.address,
        overwrite=options.overwrite,
        report=ProgressLine("enrich"),
    )
    facts = result.report
    return Outcome(
        lineage=result.snapshot.lineage_id,
        counts_in={"features": facts["n_features"], "terms": sum(facts["sources"].values())},
        counts_out={"tests": facts["n_tests"], "significant": facts["n_significant"]},
        throughput={"tests_per_second": round(facts["n_tests"] / max(result.seconds, 1e-9), 1)},
        facts=facts,
        did_work=result.did_work,
    )


def _require_sensible(options: Options) -> None:
    if options.max_cells is not None:
        raise InputError("--max-cells: enrichment reads finished feature tables; give it to `features`.")
    for flag, least in LEAST.items():
        if getattr(options, flag) < least:
            raise InputError(
                f"--{flag.replace('_', '-')} is {getattr(options, flag)}; it must be at least {least}."
            )
    if options.largest_term is not None and options.largest_term < options.smallest_term:
        raise InputError(
            f"--largest-term is {options.largest_term}, below --smallest-term {options.smallest_term}."
        )
    if not 0 < options.alpha < 1:
        raise InputError(f"--alpha is {options.alpha}; it must be between 0 and 1.")


def _ranked(text: str) -> tuple[int, ...]:
    """Raises InputError for what is no number, and without gseapy."""
    from engine.interpret.enrichment.ranked import require_gseapy

    parts = comma_separated(text)
    wrong = [part for part in parts if not part.isdigit()]
    if wrong:
        raise InputError(f"--ranked: {', '.join(wrong)} is no feature number; write --ranked 4711,88.")
    if parts:
        require_gseapy()
    return tuple(map(int, parts))


def _namer(options: Options) -> "Namer | None":
    from engine.interpret.enrichment.namer import Namer

    if bool(options.label_url) != bool(options.label_model):
        raise InputError("--label-url and --label-model go together; give both or neither.")
    return Namer.of(options.label_url, options.label_model) if options.label_url else None


def _flat(given: list[tuple[str, ...]]) -> list[str]:
    return [value for values in given for value in values]


def main(argv: Sequence[str] | None = None) -> int:
    return launch("enrich", Options, run, argv)


if __name__ == "__main__":
    raise SystemExit(main())
