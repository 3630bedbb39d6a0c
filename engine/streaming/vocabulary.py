"""The gene ids a model directory knows, without loading its weights."""

from __future__ import annotations

import json
from pathlib import Path

from engine.models.errors import ModelError
from engine.models.geneformer.dictionaries import read_dictionaries


def gene_vocabulary(directory: Path) -> frozenset[str]:
    """Ids that become tokens: Tahoe's vocab.json; Geneformer's tokens and the aliases that lead to them.

    Raises ModelError when the directory holds no encoder's vocabulary.
    """
    if (directory / "vocab.json").is_file():
        try:
            return frozenset(json.loads((directory / "vocab.json").read_text()))
        except ValueError as error:
            raise ModelError(f"{directory}/vocab.json: not valid JSON ({error})") from error
    if not (directory / "config.json").is_file():
        raise ModelError(f"{directory}: no vocab.json (Tahoe-x1) and no config.json (Geneformer)")
    dictionaries = read_dictionaries(directory)
    aliases = (alias for alias, gene in dictionaries.mapping.items() if gene in dictionaries.tokens)
    return frozenset(dictionaries.tokens).union(aliases)
