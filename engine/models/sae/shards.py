"""Autoencoders in pieces of consecutive features: written by many ranks, read by any number.

A sharded directory holds `cfg.json` as every SAE directory, `shared.safetensors` (b_dec, and W_skip and
topk_threshold where they exist), one `features_<start>_<stop>.safetensors` per piece, and `sae_index.json`,
which lists the pieces in order and is written last. In a piece the rows of W_enc are features too ([f, D], as
W_dec), so that pieces concatenate along their first axis whatever their number.
Legend: f features of a piece, F all features, D input width, O output width.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors.torch import save_file
from torch import Tensor

from engine.models.errors import ModelError
from engine.models.sae.checkpoint import CONFIG, WEIGHTS, export_json
from engine.models.sae.config import TRAINING_FORMS, SAEConfig, from_json, to_json
from engine.models.sae.folds import export_config, fold_norm_into, threshold_vector
from engine.models.sae.model import DTYPES, FEATURE_PARAMETERS, SAE
from engine.models.sae.streamed_file import StreamedSafetensors
from engine.models.weights import StoredTensor, open_safetensors, read_json

INDEX, SHARED = "sae_index.json", "shared.safetensors"


class Piece(NamedTuple):
    """A file with features start .. stop."""

    start: int
    stop: int
    file: str


def feature_rows(sae: SAE, start: int, stop: int) -> dict[str, Tensor]:
    """Weights of features start .. stop in state-dict names and shapes: W_enc [D, f], W_dec [f, O], [f]."""
    state = sae.state_dict()
    rows = {name: state[name][start:stop] for name in _per_feature(sae.config) if name != "W_enc"}
    return {"W_enc": state["W_enc"][:, start:stop]} | rows


def shared_weights(sae: SAE) -> dict[str, Tensor]:
    """Weights that belong to no feature: b_dec, and W_skip and topk_threshold where they exist."""
    per_feature = _per_feature(sae.config)
    return {name: tensor for name, tensor in sae.state_dict().items() if name not in per_feature}


def save_shards(sae: SAE, directory: Path | str, n: int) -> None:
    """Writes a sharded directory of n pieces of nearly equal size.

    Ranks that hold a range of features each write theirs with `save_shard`; one of them then calls
    `finish_shards`.
    """
    for start, stop in ranges(sae.d_sae, n):
        save_shard(feature_rows(sae, start, stop), start, directory)
    finish_shards(sae.config, shared_weights(sae), directory)


def save_shard(rows: dict[str, Tensor], start: int, directory: Path | str) -> None:
    """Writes the piece that begins at feature `start`; rows as `feature_rows` gives them."""
    directory = Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    stop = start + rows["W_dec"].shape[0]
    weights = {name: tensor.detach().cpu() for name, tensor in rows.items()}
    weights["W_enc"] = weights["W_enc"].T
    file = directory / f"features_{start:010d}_{stop:010d}.safetensors"
    save_file({name: tensor.contiguous() for name, tensor in weights.items()}, file)


def finish_shards(config: SAEConfig, shared: dict[str, Tensor], directory: Path | str) -> None:
    """Writes cfg.json, the shared weights and last the index; the pieces must be there.

    Raises ModelError if they leave features out or hold one twice.
    """
    directory = Path(directory)
    pieces = []
    for file in sorted(directory.glob("features_*_*.safetensors")):
        start, stop = (int(number) for number in file.stem.split("_")[1:])
        pieces.append(Piece(start, stop, file.name))
    _require_whole(pieces, config.d_sae, directory)
    save_file({name: part.detach().cpu().contiguous() for name, part in shared.items()}, directory / SHARED)
    (directory / CONFIG).write_text(json.dumps(to_json(config)))
    (directory / INDEX).write_text(
        json.dumps({"d_sae": config.d_sae, "shards": [piece._asdict() for piece in pieces]})
    )


def read_config(directory: Path | str) -> SAEConfig:
    """Configuration of a sharded directory."""
    return from_json(read_json(Path(directory) / CONFIG))


def load_shards(directory: Path | str, feature_range: tuple[int, int] | None = None) -> dict[str, Tensor]:
    """State dict of features start .. stop (default all), shared weights included; reads those rows only.

    The pieces need not have been cut where the range is. Raises ModelError for a range outside of the
    autoencoder, a directory without an index, and pieces that are missing or of another shape.
    """
    directory = Path(directory)
    config = read_config(directory)
    start, stop = feature_range or (0, config.d_sae)
    if not 0 <= start < stop <= config.d_sae:
        raise ModelError(f"{directory}: features {start} to {stop} of {config.d_sae} do not exist")
    parts: dict[str, list[Tensor]] = {name: [] for name in _per_feature(config)}
    for piece in _pieces(directory, config):
        low, high = max(start, piece.start) - piece.start, min(stop, piece.stop) - piece.start
        if low < high:
            stored = _open_piece(directory, piece, config)
            for name, rows in parts.items():
                rows.append(stored[name].read((slice(low, high),)))
    weights = {name: rows[0] if len(rows) == 1 else torch.cat(rows) for name, rows in parts.items()}
    weights["W_enc"] = weights["W_enc"].T
    shared = {name: stored.read(()) for name, stored in open_safetensors(directory / SHARED).items()}
    return weights | shared


def reshard(directory: Path | str, output: Path | str, n: int) -> None:
    """Writes the same autoencoder in n pieces; holds one piece of the output at a time."""
    config = read_config(directory)
    for start, stop in ranges(config.d_sae, n):
        weights = load_shards(directory, (start, stop))
        save_shard({name: weights[name] for name in _per_feature(config)}, start, output)
    finish_shards(config, _shared(weights, config), output)


def export_shards(directory: Path | str, output: Path | str) -> None:
    """Writes the SAELens directory of a sharded one, on a CPU, one piece in memory at a time.

    The result is that of `save`: decoder norms folded where they choose features, JumpReLU for BatchTopK.
    """
    directory, output = Path(directory), Path(output)
    config = read_config(directory)
    exported = export_config(config)
    with torch.device("meta"):
        shapes = {name: tuple(tensor.shape) for name, tensor in SAE(exported).state_dict().items()}
    output.mkdir(parents=True, exist_ok=True)
    with StreamedSafetensors(output / WEIGHTS, shapes, DTYPES[config.dtype]) as file:
        for piece in _pieces(directory, config):
            weights = load_shards(directory, (piece.start, piece.stop))
            if config.rescale_acts_by_decoder_norm:
                fold_norm_into(config, weights)
            if config.architecture in TRAINING_FORMS:
                threshold = weights.pop("topk_threshold")
                weights["threshold"] = threshold_vector(threshold, piece.stop - piece.start)
            file.write("W_enc", weights["W_enc"], columns=(piece.start, piece.stop))
            for name in _per_feature(exported):
                if name != "W_enc":
                    file.write(name, weights[name], rows=(piece.start, piece.stop))
        for name, tensor in _shared(weights, exported).items():
            file.write(name, tensor)
    (output / CONFIG).write_text(json.dumps(export_json(exported)))


def _per_feature(config: SAEConfig) -> tuple[str, ...]:
    return ("W_enc", "W_dec", *FEATURE_PARAMETERS[config.architecture])


def _shared(weights: dict[str, Tensor], config: SAEConfig) -> dict[str, Tensor]:
    return {name: tensor for name, tensor in weights.items() if name not in _per_feature(config)}


def ranges(n_features: int, n: int) -> Iterator[tuple[int, int]]:
    """First and last + 1 of each of n pieces of nearly equal size."""
    if not 0 < n <= n_features:
        raise ModelError(f"cannot cut {n_features} features into {n} pieces")
    for number in range(n):
        yield number * n_features // n, (number + 1) * n_features // n


def _pieces(directory: Path, config: SAEConfig) -> list[Piece]:
    pieces = [Piece(**entry) for entry in read_json(directory / INDEX)["shards"]]
    _require_whole(pieces, config.d_sae, directory)
    return pieces


def _require_whole(pieces: list[Piece], n_features: int, directory: Path) -> None:
    reached = 0
    for piece in pieces:
        if piece.start != reached:
            raise ModelError(f"{directory}: {piece.file} begins at {piece.start}; expected {reached}")
        reached = piece.stop
    if reached != n_features:
        raise ModelError(f"{directory}: the shards hold {reached} of {n_features} features")


def _open_piece(directory: Path, piece: Piece, config: SAEConfig) -> dict[str, StoredTensor]:
    if not (directory / piece.file).is_file():
        raise ModelError(f"{directory}: {piece.file} is missing")
    stored = open_safetensors(directory / piece.file)
    n = piece.stop - piece.start
    for name in _per_feature(config):
        wanted = {"W_enc": (n, config.d_in), "W_dec": (n, config.reconstructs)}.get(name, (n,))
        found = stored[name].shape if name in stored else None
        if found != wanted:
            raise ModelError(f"{directory / piece.file}: {name} is {found}; expected {wanted}")
    return stored
