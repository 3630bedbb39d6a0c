"""Cells -> phrases: a bank of texts embedded once, and the phrases that are most like some cells.

Legend: P phrases, U width of the common space.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from engine.retrieval import conditions
from engine.retrieval.texts import Texts, in_template
from storage.commits import Dataset, MemberPlan
from storage.errors import InputError
from storage.locations import Location
from storage.phrases import KIND, LIBRARY, TERM, TEXT, PhraseBank, finish_phrases, vectors_name
from storage.protocol.snapshots import canonical, hash_of

Report = Callable[[int, int, str], None]
Float32 = npt.NDArray[np.float32]

# Phrases of a member: a minute of a CPU core.
_PHRASES = 2_048
# Phrases whose nearest others say how near phrases are to one another; fewer than _FEWEST say nothing.
_SAMPLED, _FEWEST = 4_096, 50


@dataclass(frozen=True)
class Ranked:
    """Phrases, best first. score: inner product with the cells' vector. probability: of the phrase among all
    that were allowed, by softmax of score over temperature. place: within its library, from 1.
    """

    library: str
    term: str
    score: float
    probability: float
    place: int


def build_bank(
    libraries: Mapping[str, Sequence[str]],
    texts: Texts,
    output: Location,
    *,
    template: str | None = None,
    overwrite: bool = False,
    report: Report | None = None,
) -> tuple[PhraseBank, bool]:
    """Embed the terms of libraries, or finish doing so; the bank, and whether anything was left to do.

    Raises InputError when there is no term, LineageMismatch for a place that holds something else.
    """
    rows = [(library, term) for library, terms in libraries.items() for term in terms]
    if not rows:
        raise InputError("no term in any of the libraries")
    asked = in_template([term for _, term in rows], template)
    lineage = {
        "model": texts.model,
        "template": template,
        "phrases": hash_of(canonical([list(row) for row in rows])),
    }
    members = [
        MemberPlan(f"{number:05d}", {"start": start, "stop": min(start + _PHRASES, len(rows))})
        for number, start in enumerate(range(0, len(rows), _PHRASES))
    ]
    dataset = Dataset.plan(output, kind=KIND, lineage=lineage, members=members, overwrite=overwrite)
    if dataset.is_complete:
        return PhraseBank.open(output), False
    for member in dataset.pending():
        start, stop = member.facts["start"], member.facts["stop"]
        writer = dataset.member(member.key)
        vectors_PU = texts.side.embed_texts(asked[start:stop]).cpu().numpy().astype("<f4")
        writer.put(vectors_name(member.key), vectors_PU.tobytes())
        writer.commit({"start": start, "stop": stop})
        if report is not None:
            report(stop, len(rows), "phrases")
    table = pa.table(
        {
            LIBRARY: pa.array([library for library, _ in rows]).dictionary_encode(),
            TERM: [term for _, term in rows],
            TEXT: asked,
        }
    )
    written = np.concatenate(
        [np.frombuffer(output.read(vectors_name(member.key)), "<f4") for member in dataset.members]
    ).reshape(len(rows), -1)
    facts = {"width": written.shape[1], "temperature": texts.temperature, "nearest": nearest_of(written)}
    finish_phrases(dataset, table, facts)
    return PhraseBank.open(output), True


def nearest_of(vectors_PU: Float32) -> float | None:
    """Cosine that 99 of 100 phrases have at least with the other phrase nearest to them: what lies further
    from all of them than that is about something else. None for too few phrases to say.
    """
    distinct_PU = np.unique(vectors_PU, axis=0)
    if len(distinct_PU) < _FEWEST:
        return None
    chosen = np.linspace(0, len(distinct_PU) - 1, min(_SAMPLED, len(distinct_PU))).astype(int)
    nearest = []
    for start in range(0, len(chosen), 256):
        some = chosen[start : start + 256]
        cosine = distinct_PU[some] @ distinct_PU.T
        cosine[np.arange(len(some)), some] = -np.inf
        nearest.append(cosine.max(axis=1))
    return round(float(np.quantile(np.concatenate(nearest), 0.01)), 5)


def rank(
    bank: PhraseBank, vector_U: Float32, k: int, where: str | None = None
) -> tuple[list[Ranked], dict[str, list[Ranked]]]:
    """The k phrases most like a vector, over all libraries, and of each library; among those that pass
    `where`, a condition on `library`, `term` and `text`.

    vector_U: one cell's unit vector, or the mean of several (not brought to length one: a mixture is less
    like everything, as in CellWhisperer). Raises InputError for a condition nothing passes.
    """
    score_P = bank.vectors @ vector_U
    allowed = np.ones(len(bank), bool) if where is None else _passing(bank, where)
    if not allowed.any():
        raise InputError(f"--filter {where!r}: no phrase of {bank.snapshot.location} passes")
    logit_P = np.where(allowed, score_P / bank.temperature, -np.inf)
    share_P = np.exp(logit_P - logit_P.max())
    share_P /= share_P.sum()
    libraries = bank.table[LIBRARY].to_pylist()
    terms = bank.table[TERM]
    by_library: dict[str, list[Ranked]] = {}
    overall: list[Ranked] = []
    for row in np.lexsort((np.arange(len(bank)), -logit_P)):
        if not allowed[row]:
            break
        found = by_library.setdefault(libraries[row], [])
        if len(found) < k or len(overall) < k:
            ranked = Ranked(
                libraries[row],
                terms[int(row)].as_py(),
                float(score_P[row]),
                float(share_P[row]),
                len(found) + 1,
            )
            found.append(ranked)
            overall.append(ranked)
    return overall[:k], {library: found[:k] for library, found in sorted(by_library.items())}


def _passing(bank: PhraseBank, where: str) -> npt.NDArray[np.bool_]:
    condition = conditions.parse(where)
    unknown = conditions.columns_of(condition) - set(bank.table.column_names)
    if unknown:
        raise InputError(
            f"--filter {where!r}: a bank has no {', '.join(sorted(unknown))}; it has library, term, text"
        )
    return conditions.passing(condition, bank.table)
