"""`syncytium convert`: a model as others saved it -> a model directory, offline and without their code."""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

from jobs.anatomy import JobOptions, Outcome, launch, run_record
from storage.errors import InputError

if TYPE_CHECKING:
    from engine.models import sae


@dataclass(kw_only=True)
class Options(JobOptions):
    """Write a model directory (safetensors, JSON) from a checkpoint; its pickles are read and never run.

    cellwhisperer: a Lightning checkpoint such as cellwhisperer_clip_v1.ckpt -> joint model. It lacks its
    Geneformer, frozen in training, and a tokeniser: --cell-tower and --text-tower bring them.
    cellwhisperer-chat: a directory as its LLaVA leaves it, of the first stage (config.json, mm_projector.bin;
    --language-model says what it was trained on) or the second (the whole model) -> chat model.
    geneformer, tahoe: a directory as downloaded (pickled dictionaries, pytorch_model.bin and best-model.pt
    included), or the weights file in one -> encoder directory.
    sae-genomics: its autoencoder's checkpoint (.pt) -> SAELens directory that picks features as in training.
    """

    from_: Annotated[str, tyro.conf.arg(name="from")]
    """The checkpoint; for geneformer and tahoe also the directory it lies in."""
    kind: Literal["cellwhisperer", "cellwhisperer-chat", "geneformer", "tahoe", "sae-genomics"]
    """What wrote it."""
    cell_tower: str | None = None
    """cellwhisperer: directory of the Geneformer it was trained on (12 layers of V1) and its dictionaries."""
    text_tower: str | None = None
    """cellwhisperer: directory of the text model it was trained on (BioBERT v1.1), for its tokeniser."""
    language_model: str | None = None
    """cellwhisperer-chat: directory of the language model it was trained on (Mistral 7B Instruct v0.2)."""


def run(options: Options) -> Outcome:
    from storage.checkpoints import publish

    output = options.output_location
    source = Path(options.from_).expanduser()
    lineage = _lineage(options, source)
    if _is_done(options, lineage):
        return Outcome(lineage=lineage, did_work=False)
    write = _conversion(options, source)  # reads everything: what is refused leaves the output as it was
    if options.overwrite:
        output.delete_all()
    publish(write, str(output))
    return Outcome(lineage=lineage, counts_in={"checkpoints": 1}, counts_out={"models": 1})


def _lineage(options: Options, source: Path) -> str:
    """Hash of the bytes of all that is converted. InputError for a flag missing or of no use here."""
    from storage.protocol.snapshots import canonical, hash_of

    paths = {"--from": source}
    for flag, given in {"--cell-tower": options.cell_tower, "--text-tower": options.text_tower}.items():
        if (given is not None) != (options.kind == "cellwhisperer"):
            wrong = "is missing; --kind cellwhisperer needs it" if given is None else "is of no use here"
            raise InputError(f"{flag} {wrong}.")
        if given is not None:
            paths[flag] = Path(given).expanduser()
    if options.language_model is not None:
        if options.kind != "cellwhisperer-chat":
            raise InputError("--language-model is of no use here.")
        paths["--language-model"] = Path(options.language_model).expanduser()
    absent = [f"{flag} {path}" for flag, path in paths.items() if not path.exists()]
    if absent:
        raise InputError(f"{absent[0]}: no such file or directory on this machine.")
    return hash_of(canonical([options.kind, {flag: _content(path) for flag, path in paths.items()}]))


def _content(path: Path) -> dict[str, str]:
    """SHA-256 of a file, or of each file that lies directly in a directory, by name."""
    files = [path] if path.is_file() else sorted(file for file in path.iterdir() if file.is_file())
    hashes = {}
    for file in files:
        with file.open("rb") as stream:
            hashes[file.name] = hashlib.file_digest(stream, "sha256").hexdigest()
    return hashes


def _is_done(options: Options, lineage: str) -> bool:
    """Whether the output is this very conversion. InputError when it holds anything else."""
    output = options.output_location
    if options.overwrite or not output.list():
        return False
    earlier = run_record.read(output) or {}
    if earlier.get("job") == "convert" and earlier.get("lineage") == lineage:
        return True
    raise InputError(
        f"{output}: already holds something else (lineage {earlier.get('lineage')}, this conversion is "
        f"{lineage}); give another --output, or --overwrite to remove what is there."
    )


def _conversion(options: Options, source: Path) -> Callable[[Path], None]:
    """Reads the checkpoint; what it returns writes the model into a directory."""
    from engine import models
    from engine.models import chat, joint, sae
    from engine.models.chat import llava
    from engine.models.joint import cellwhisperer

    if options.kind == "cellwhisperer" and options.cell_tower and options.text_tower:
        model = cellwhisperer.convert(source, options.cell_tower, options.text_tower)
        return partial(joint.save, model)
    if options.kind == "cellwhisperer-chat":
        return partial(chat.save, llava.convert(source, options.language_model))
    if options.kind == "sae-genomics":
        return partial(sae.save, _sae_genomics(source))
    encoder = models.load(source if source.is_dir() else source.parent)
    expected = {"geneformer": models.geneformer.GeneformerEncoder, "tahoe": models.tahoe.TahoeEncoder}
    if not isinstance(encoder, expected[options.kind]):
        raise InputError(f"--kind {options.kind}: {source} holds a {type(encoder).__name__}.")
    return partial(models.save, encoder)


def _sae_genomics(source: Path) -> "sae.SAE":
    """Its TopK autoencoder. In training it chose features by activation times decoder norm; its own export
    leaves that out and so picks others.
    """
    import torch

    from engine.models import sae
    from engine.models.foreign import open_checkpoint, open_tensors
    from engine.models.weights import fill

    weights = {name: part.read(()) for name, part in open_tensors(source, ("sae_state_dict",)).items()}
    settings = open_checkpoint(source)
    missing = [name for name in ("d_in", "d_sae", "k") if not isinstance(settings.get(name), int)]
    if missing or settings.get("activation", "topk") != "topk":
        raise InputError(
            f"{source}: expected d_in, d_sae, k and activation 'topk' beside the weights, found "
            f"{settings.get('activation')!r}, without {missing}."
        )
    config = sae.SAEConfig(
        "topk", settings["d_in"], settings["d_sae"], k=settings["k"], rescale_acts_by_decoder_norm=True
    )
    with torch.device("meta"):  # the weights bring their own memory
        autoencoder = sae.SAE(config)
    fill(autoencoder, weights, str(source))
    return autoencoder.eval()


def main(argv: Sequence[str] | None = None) -> int:
    return launch("convert", Options, run, argv)


if __name__ == "__main__":
    raise SystemExit(main())
