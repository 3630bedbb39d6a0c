"""`syncytium serve`: search, scores, conversation and a page over an index, until it is told to stop."""

import os
import secrets
import signal
import sys
import threading
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from jobs.anatomy import JobOptions, Outcome, comma_separated, launch
from storage.errors import InputError

if TYPE_CHECKING:
    from engine.serving.settings import Settings
    from storage.cells import CellStore
    from storage.index import VectorIndex


@dataclass(kw_only=True)
class Options(JobOptions):
    """Serve an index on a port: the page at /, the API's documents at /docs. Only this machine can reach it
    unless --host says otherwise, and that needs --api-keys."""

    index: str | None = None
    """Vector index, as `index` writes it."""
    joint: str | None = None
    """Joint model of the index, where it no longer lies where the index says."""
    cells: str | None = None
    """Cell store the index was made from: marker genes, expression, evidence."""
    cell_tower: bool = True
    """With --cells: /interpret loads the joint model's cell tower when first asked, to attribute scores to
    genes. Without, it contrasts near and far cells."""
    features: str | None = None
    """Feature tables, as `features` writes them."""
    dashboard: str | None = None
    """Site about the features, as `dashboard` writes it: its pages are at /dashboard/."""
    text_precision: Literal["auto", "fp32", "bf16"] = "auto"
    """bf16: the text tower, a BERT on a CPU, multiplies in bfloat16, which is faster and a little off. auto:
    so where the CPU has instructions for it."""
    search_threads: int | None = None
    """CPU threads of one scan of a large index, in each replica. Default: all cores, at most 8."""
    phrases: str | None = None
    """Phrase bank by the same joint model, as `phrases` writes it: what cells may be called."""
    perturbation: str | None = None
    """Model of perturbations, as `train-perturbation` writes it."""
    map: str | None = None
    """h5ad with a map of the cells, as `annotate` writes it. Default: the plane in which they spread most."""
    sae: str | None = None
    """The sparse autoencoder of the features: which features point the same way."""
    chat: str | None = None
    """Chat model of the index's joint model, as `train-chat` writes it: it words the answers."""
    chat_gpus: float = 0
    """GPUs of each replica of the chat model, which may be a fraction."""
    language_model: str | None = None
    """Base URL of an OpenAI-compatible server that words the answers (its key in
    SYNCYTIUM_LANGUAGE_MODEL_KEY). Default: answers are put together from the evidence, without a model."""
    language_model_name: str = "default"
    """Name of that model there."""
    index_version: int | None = None
    """Version of the index. Default: the newest."""
    host: str = "127.0.0.1"
    """Address to listen on."""
    port: int = 8000
    """Port to listen on; 0 takes a free one."""
    api_keys: str | None = None
    """File of hashed API keys; without one, everyone who reaches the port may ask."""
    new_api_key: str | None = None
    """Add a key of this name to --api-keys, print it once, and stop."""
    permissions: str = "read,chat"
    """What a new key may do: read, chat, admin."""
    allow_origins: str = ""
    """Origins whose pages may call this server, with commas between."""
    mcp: bool = False
    """Also answer as tools of the Model Context Protocol, at /mcp/ (pip install "syncytium[mcp]")."""
    feedback: str | None = None
    """Folder for thumbs up and down; nothing is kept without one."""
    write_config: str | None = None
    """Write Ray Serve's config file of this application, for `serve deploy` or a RayService, and stop."""
    replicas: int = 1
    """Of each model and of the door."""
    most_replicas: int | None = None
    """Scale up to so many under load. Default: no scaling."""


def run(options: Options) -> Outcome:
    if options.new_api_key is not None:
        return _add_key(options)
    # Ray reads its mode when it is imported, and much of what follows imports it.
    lock_own_ray(options.address)
    settings = settings_of(options)
    from engine.serving.config_file import NAME, config_file, request_seconds

    if options.write_config is not None:
        Path(options.write_config).write_text(config_file(settings, options.host, options.port))
        return Outcome(facts={"config": options.write_config}, writes_record=False)
    from ray import serve
    from ray.serve.config import HTTPOptions

    from engine import ray_session
    from engine.serving import front
    from engine.serving.application import build

    application = build(settings)
    port = options.port or front.free_ports(1, options.host)[0]
    own = not ray_session.joins(options.address)
    with (
        front.on_this_machine() if own else nullcontext(front.on_cluster(options.host)) as environment,
        ray_session.connect(options.address, environment=environment),
    ):
        # Between a client that sends on and a replica that leaves: requests in flight are finished.
        seconds = request_seconds(settings)
        serve.start(http_options=HTTPOptions(host=options.host, port=port, request_timeout_s=seconds))
        try:
            serve.run(application, name=NAME)
            print(f"serving {settings.index} at http://{options.host}:{port} (Ctrl-C stops it)", flush=True)
            _until_told()
        finally:
            serve.shutdown()
    return Outcome(facts={"host": options.host, "port": port}, writes_record=False)


def lock_own_ray(address: str | None) -> None:
    """Have the Ray that we start ask for a token that nobody is told: its ports are on loopback, but so is
    every other user of this machine, and who reaches them may run code.

    A Ray that was imported before (a notebook's, a test's) keeps the mode it has.
    """
    from engine import ray_session

    if ray_session.joins(address) or "ray" in sys.modules:
        return
    is_locked = os.environ.setdefault("RAY_AUTH_MODE", "token") == "token"
    if is_locked and "RAY_AUTH_TOKEN_PATH" not in os.environ:
        os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))


def settings_of(options: Options) -> "Settings":
    """Raises InputError for what would fail or be unsafe once it is served."""
    from engine.interpret.dashboard.build import KIND
    from engine.serving.access import read_keys
    from engine.serving.front import LOOPBACK
    from engine.serving.settings import Settings
    from storage.cells import CellStore
    from storage.commits import open_snapshot
    from storage.features import FeatureTables
    from storage.index import VectorIndex
    from storage.locations import Location
    from storage.phrases import PhraseBank

    if options.index is None:
        raise InputError("--index is missing: say which vector index to serve.")
    if options.api_keys is not None:
        read_keys(options.api_keys)
    elif options.host not in LOOPBACK:
        raise InputError(
            f"--host {options.host} can be reached from other machines; give --api-keys FILE "
            "(make keys with --new-api-key NAME), or put a proxy that asks for keys before 127.0.0.1."
        )
    index = VectorIndex.open(options.index, options.index_version)
    if options.cells is not None:
        _require_cells_of(index, CellStore.open(options.cells))
    if options.chat is not None:
        _require_chat_of(index, options.chat)
    if options.features is not None:
        FeatureTables.open(options.features)
    if options.dashboard is not None:
        open_snapshot(Location.of(options.dashboard), KIND)
    if options.phrases is not None:
        PhraseBank.open(options.phrases)
    return Settings(
        index=options.index,
        joint=options.joint,
        cells=options.cells,
        cell_tower=options.cell_tower,
        features=options.features,
        dashboard=options.dashboard,
        phrases=options.phrases,
        perturbation=options.perturbation,
        map=options.map,
        sae=options.sae,
        chat=options.chat,
        chat_gpus=options.chat_gpus,
        language_model=options.language_model,
        language_model_name=options.language_model_name,
        index_version=options.index_version,
        api_keys=options.api_keys,
        allow_origins=comma_separated(options.allow_origins),
        mcp=options.mcp,
        feedback=options.feedback,
        replicas=options.replicas,
        most_replicas=options.most_replicas,
        text_precision=options.text_precision,
        search_threads=options.search_threads,
    )


def _require_cells_of(index: "VectorIndex", store: "CellStore") -> None:
    """Row i of the store must be cell i of the index."""
    first = index.facts["sources"][0]
    if first["n_cells"] > store.n_cells:
        raise InputError(
            f"--cells {store.location} holds {store.n_cells:,} cells, but the index was made from "
            f"{first['n_cells']:,}: it is another store."
        )


def _require_chat_of(index: "VectorIndex", directory: str) -> None:
    """The chat model must read the vectors that the index holds."""
    from engine.models import chat
    from storage.checkpoints import local_copy

    config = chat.load_config(local_copy(directory))
    joint = (index.facts.get("joint") or {}).get("model")
    if config.cell_width != index.width:
        raise InputError(
            f"--chat {directory}: reads vectors of {config.cell_width} numbers; the index holds vectors of "
            f"{index.width}."
        )
    if None not in (config.joint, joint) and config.joint != joint:
        raise InputError(
            f"--chat {directory}: was trained on joint model {config.joint}, and the index was made with "
            f"another, {joint}."
        )


def _add_key(options: Options) -> Outcome:
    from engine.serving.access import new_key, read_keys

    if options.api_keys is None:
        raise InputError("--new-api-key needs --api-keys FILE: where the key's hash is kept.")
    file = Path(options.api_keys)
    name = str(options.new_api_key)
    if not name.isidentifier():
        raise InputError(f"--new-api-key {name!r}: a name of letters, digits and underscores is needed.")
    if file.exists() and name in {key.name for key in read_keys(file)}:
        raise InputError(f"{file} has a key {name!r} already; remove its line first.")
    text, key = new_key(name, comma_separated(options.permissions))
    with file.open("a") as kept:
        kept.write(key.line + "\n")
    file.chmod(0o600)
    print(f"key {name}, shown once: {text}")
    return Outcome(counts_out={"keys": 1}, writes_record=False)


def _until_told() -> None:
    told = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: told.set())
    told.wait()


def main(argv: Sequence[str] | None = None) -> int:
    return launch("serve", Options, run, argv)


if __name__ == "__main__":
    raise SystemExit(main())
