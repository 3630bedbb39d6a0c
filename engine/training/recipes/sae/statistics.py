"""What is measured of activations before a sparse autoencoder is trained on them.

Legend: B tokens of a batch, D width, G token ids of the model's vocabulary, H hooks.
"""

import logging
import math
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from itertools import chain, islice

import torch
import torch.distributed as dist

from engine.training.activation_sources import ActivationSource, TokenBatch, batches_of
from engine.training.aligned_activations import AlignedSource
from engine.training.recipe import Share

# Enough for a mean and a scale to three digits at any width we meet (specs/sae.md section 5).
STATISTICS_TOKENS = 200_000
# A hundred tokens of each of 20,000 genes.
GENE_TOKENS = 2_000_000
# Enough for a median norm to a percent; looked at first, because outliers take no part in the rest.
PROBE_TOKENS = 16_384
# A gene's mean counts as so many tokens of the overall mean too: a gene seen once has no mean of its own.
PRIOR_TOKENS = 8
# Of norms: finite, so that it can be compared and written as any number.
NO_LIMIT = torch.finfo(torch.float32).max

LOG = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class ActivationStatistics:
    """Of activations as training draws them, tokens of outlying norm left out.

    mean_D, sigma_D: of each dimension. shift_D and scale: x' = (x - shift) * scale is centred with an RMS
    norm of sqrt(D), or with gene_means_GD x' = (x - its gene's mean - shift) * scale. median_norm: of all
    tokens looked at first. norm_limit: above it a token is an outlier; NO_LIMIT for none. outliers_G: how
    many of each gene are.
    """

    n_tokens: int
    mean_D: torch.Tensor
    sigma_D: torch.Tensor
    shift_D: torch.Tensor
    scale: float
    median_norm: float
    norm_limit: float
    outliers_G: torch.Tensor
    gene_means_GD: torch.Tensor | None = None

    @property
    def gamma(self) -> float:
        """||mean|| / ||sigma||: how far off the activations lie, in units of their spread."""
        return float(self.mean_D.norm() / self.sigma_D.norm().clamp(min=1e-30))


def activation_statistics(
    source: ActivationSource,
    share: Share,
    device: torch.device,
    *,
    outlier_norm: float = 0.0,
    gene_residual: bool = False,
) -> ActivationStatistics:
    """Statistics of one source; see `statistics_of`."""
    wanted = (source, Wanted(outlier_norm, gene_residual))
    return statistics_of([wanted], share, device)[wanted]


@dataclass(frozen=True)
class Wanted:
    """outlier_norm: multiples of the median norm above which tokens are left out, 0 for never. gene_residual:
    the means of genes too, and the scale of what is left without them."""

    outlier_norm: float = 0.0
    gene_residual: bool = False


def statistics_of(
    wanted: Sequence[tuple[ActivationSource, Wanted]], share: Share, device: torch.device
) -> dict[tuple[ActivationSource, Wanted], ActivationStatistics]:
    """Statistics of several sources in one pass over what they share. Collective.

    Of 200,000 tokens drawn as for training (2 million for gene means), or of all there are.
    Centring is not optional: with a mean ten times the spread, 99 % of the features of a TopK autoencoder
    with a zero bias never fire (specs/sae.md section 5). Sums are float64: the mean may dwarf the spread.
    """
    if not wanted:
        return {}
    step_tokens = share.micro_batch * share.world
    n_batches = {pair: math.ceil(_tokens_for(*pair) / step_tokens) for pair in wanted}
    n_probe = {pair: min(math.ceil(PROBE_TOKENS / step_tokens), n_batches[pair]) for pair in wanted}
    most = max(n_batches.values())
    with closing(batches_of([source for source, _ in wanted], 0, share, device)) as stream:
        probe = list(islice(stream, max(n_probe.values())))
        sums = {
            (source, what): _Sums(
                len(source.gene_names()),
                source.width,
                what,
                [batch[source] for batch in probe[: n_probe[source, what]]],
                share,
                device,
            )
            for source, what in wanted
        }
        for number, batch in enumerate(chain(probe, islice(stream, most - len(probe)))):
            for pair in wanted:
                if number < n_batches[pair]:
                    sums[pair].add(batch[pair[0]])
        # The stream is closed when all workers have their sums: the first one's may be the source of theirs.
        measured = {pair: sums[pair].over_workers(share) for pair in wanted}
    if share.rank == 0:
        for (source, _), found in measured.items():
            _warn(source.hook, found)
    return measured


def statistics_of_places(
    source: AlignedSource, wanted: Wanted, share: Share, device: torch.device
) -> list[ActivationStatistics]:
    """Statistics of every place of a source by itself, of the same tokens. Collective, as `statistics_of`."""
    n_batches = math.ceil(_tokens_for(source, wanted) / (share.micro_batch * share.world))
    n_probe = min(math.ceil(PROBE_TOKENS / (share.micro_batch * share.world)), n_batches)
    widths, n_genes = [place.width for place in source.places], len(source.gene_names())
    with closing(source.batches(0, share, device)) as stream:
        probe = list(islice(stream, n_probe))
        sums = [
            _Sums(n_genes, width, wanted, [_at(batch, widths, place) for batch in probe], share, device)
            for place, width in enumerate(widths)
        ]
        for batch in chain(probe, islice(stream, n_batches - n_probe)):
            for place, measured in enumerate(sums):
                measured.add(_at(batch, widths, place))
        found = [measured.over_workers(share) for measured in sums]
    if share.rank == 0:
        for described, there in zip(source.places, found, strict=True):
            _warn(described.name, there)
    return found


def _at(batch: TokenBatch, widths: Sequence[int], place: int) -> TokenBatch:
    return TokenBatch(torch.split(batch.x_BD, list(widths), dim=1)[place], batch.gene_B)


def _tokens_for(source: ActivationSource, wanted: Wanted) -> int:
    return min(GENE_TOKENS if wanted.gene_residual else STATISTICS_TOKENS, math.ceil(source.n_tokens))


class _Sums:
    """Sums over this worker's tokens of one source."""

    def __init__(
        self,
        n_genes: int,
        d: int,
        wanted: Wanted,
        probe: Sequence[TokenBatch],
        share: Share,
        device: torch.device,
    ) -> None:
        self.median_norm = _median_norm(probe, share)
        self.norm_limit = wanted.outlier_norm * self.median_norm if wanted.outlier_norm else NO_LIMIT
        self.n = torch.zeros((), dtype=torch.float64, device=device)
        self.total_D = torch.zeros(d, dtype=torch.float64, device=device)
        self.square_D = torch.zeros(d, dtype=torch.float64, device=device)
        self.outliers_G = torch.zeros(n_genes, dtype=torch.int64, device=device)
        # float32: a gene has thousands of tokens, not billions, and there are many genes.
        genes = n_genes if wanted.gene_residual else 0
        self.gene_n_G = torch.zeros(genes, device=device)
        self.gene_total_GD = torch.zeros(genes, d, device=device)

    def add(self, batch: TokenBatch) -> None:
        kept_B = batch.x_BD.norm(dim=1) <= self.norm_limit
        self.outliers_G += torch.bincount(batch.gene_B[~kept_B], minlength=len(self.outliers_G))
        x_BD, gene_B = batch.x_BD[kept_B], batch.gene_B[kept_B]
        if len(self.gene_n_G):
            self.gene_n_G.index_add_(0, gene_B, torch.ones_like(gene_B, dtype=torch.float32))
            self.gene_total_GD.index_add_(0, gene_B, x_BD)
        self.n += len(x_BD)
        self.total_D += x_BD.double().sum(0)
        self.square_D += x_BD.double().square().sum(0)

    def over_workers(self, share: Share) -> ActivationStatistics:
        """Of all workers' tokens, on the CPU. Collective."""
        parts = (self.n, self.total_D, self.square_D, self.outliers_G, self.gene_n_G, self.gene_total_GD)
        if dist.is_initialized():
            for part in parts:
                dist.all_reduce(part, group=share.group)
        n, total_D, square_D, outliers_G, gene_n_G, gene_total_GD = (part.cpu() for part in parts)
        mean_D = total_D / n
        variance_D = (square_D / n - mean_D.square()).clamp(min=0)
        gene_means_GD, shift_D, variance = None, mean_D, float(variance_D.sum())
        if len(gene_n_G):
            gene_means_GD, shift_D, variance = _gene_means(n, total_D, square_D, gene_n_G, gene_total_GD)
        return ActivationStatistics(
            n_tokens=int(n),
            mean_D=mean_D.float(),
            sigma_D=variance_D.sqrt().float(),
            shift_D=shift_D.float(),
            scale=math.sqrt(len(mean_D) / variance) if variance > 0 else 1.0,
            median_norm=self.median_norm,
            norm_limit=self.norm_limit,
            outliers_G=outliers_G,
            gene_means_GD=gene_means_GD,
        )


def _median_norm(probe: Sequence[TokenBatch], share: Share) -> float:
    """Of all workers' first tokens. Collective."""
    norm_B = torch.cat([batch.x_BD.norm(dim=1) for batch in probe])
    everybody = [norm_B]
    if dist.is_initialized():
        everybody = [torch.empty_like(norm_B) for _ in range(share.world)]
        dist.all_gather(everybody, norm_B, group=share.group)
    return float(torch.cat(everybody).median())


def _gene_means(
    n: torch.Tensor,
    total_D: torch.Tensor,
    square_D: torch.Tensor,
    gene_n_G: torch.Tensor,
    gene_total_GD: torch.Tensor,
) -> tuple[torch.Tensor, torch.Tensor, float]:
    """Means of genes, drawn towards the overall one; mean and variance of what is left without them."""
    mean_D = (total_D / n).float()
    means_GD = (gene_total_GD + PRIOR_TOKENS * mean_D) / (gene_n_G + PRIOR_TOKENS)[:, None]
    left_D = (total_D - (gene_n_G.double() @ means_GD.double())) / n
    # sum |x - m|^2 = sum |x|^2 - 2 sum x m + sum m^2, gene by gene.
    crossed = torch.sum((2 * gene_total_GD - gene_n_G[:, None] * means_GD) * means_GD, dtype=torch.float64)
    variance = float((square_D.sum() - crossed) / n - left_D.square().sum())
    return means_GD, left_D, variance


def _warn(hook: str, found: ActivationStatistics) -> None:
    """What one should know of the activations before hours are spent on them."""
    if found.gamma > 1:
        LOG.warning(
            "%s: the mean of the activations is %.1f times their spread (mostly in dimensions %s); it is "
            "taken off and folded into the autoencoder.",
            hook,
            found.gamma,
            ", ".join(map(str, found.mean_D.abs().topk(min(3, len(found.mean_D))).indices.tolist())),
        )
    if n := int(found.outliers_G.sum()):
        LOG.warning(
            "%s: %d of %d tokens have more than %.1f, many times the median norm of %.1f; such tokens are "
            "left out, their genes are listed in cfg.json.",
            hook,
            n,
            found.n_tokens + n,
            found.norm_limit,
            found.median_norm,
        )
