"""`syncytium dashboard`: a static site about the features of an autoencoder, opened from disk."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import tyro

from jobs.anatomy import JobOptions, Outcome, ProgressLine, launch
from storage.errors import InputError

# Given more than once, or with several values, or both.
Paths = tyro.conf.UseAppendAction[list[tuple[str, ...]]]


@dataclass(kw_only=True)
class Options(JobOptions):
    """A folder of files with OUTPUT/index.html: opens offline, asks no network, may be copied anywhere."""

    features: str
    """Feature tables, as `features` writes them."""
    enrichment: str | None = None
    """What `enrich` made of them: terms, names, rates, licences."""
    comparison: str | None = None
    """What `compare-saes` made of this and other autoencoders: which features are found again."""
    others: Paths = field(default_factory=list)
    """With --comparison: feature tables of the autoencoders compared with, for their genes and labels."""
    sae: str | None = None
    """The autoencoder itself: which features write in nearly the same direction."""
    steering: str | None = None
    """What `steer` made of edits of single features."""
    batch: str | None = None
    """Feature tables of the same autoencoder with --label BATCH (donor, plate, run): features that tell
    batches apart are marked."""
    title: str = ""
    """Heading of the site."""
    public: bool = False
    """Leave out rows of sources whose licence forbids showing them to others."""


def run(options: Options) -> Outcome:
    from engine.interpret.dashboard.build import INDEX, build_site
    from engine.interpret.dashboard.inputs import SiteInputs

    output = options.output_location
    if options.max_cells is not None:
        raise InputError("--max-cells: the site shows finished feature tables; give it to `features`.")
    inputs = SiteInputs.open(
        options.features,
        title=options.title,
        enrichment=options.enrichment,
        comparison=options.comparison,
        others=[path for paths in options.others for path in paths],
        sae=options.sae,
        steering=options.steering,
        batch=options.batch,
        public=options.public,
    )
    site = build_site(inputs, output, overwrite=options.overwrite, report=ProgressLine("dashboard"))
    return Outcome(
        lineage=site.snapshot.lineage_id,
        counts_in={"features": site.n_features},
        counts_out={"files": len(site.snapshot.all_objects)},
        facts={"page": f"{output}/{INDEX}", "bytes": site.snapshot.size},
        did_work=site.did_work,
    )


def main(argv: Sequence[str] | None = None) -> int:
    return launch("dashboard", Options, run, argv)


if __name__ == "__main__":
    raise SystemExit(main())
