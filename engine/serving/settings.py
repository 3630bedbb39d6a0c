"""What one server serves, and what it allows: flags of `serve`, or `args` of a Serve config file."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator


class Limits(BaseModel):
    """Bounds of one request and of one caller; beyond them is a 4xx, never more memory."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    body_bytes: int = Field(default=4 << 20, ge=1 << 10)
    body_seconds: float = Field(default=30, gt=0)
    """A body that has not come to its end by then is refused."""
    read_seconds: float = Field(default=60, gt=0)
    """A caller that takes nothing of its answer for so long is given up."""
    hits: int = Field(default=100, ge=1)
    texts: int = Field(default=256, ge=1)
    """Texts of one embeddings request."""
    text_characters: int = Field(default=8_192, ge=1)
    messages: int = Field(default=64, ge=1)
    selection_cells: int = Field(default=1_000_000, ge=1)
    selections: int = Field(default=4_096, ge=1)
    """Selections kept; the oldest goes first."""
    annotated_cells: int = Field(default=50_000, ge=1)
    attributed_cells: int = Field(default=16, ge=1)
    """Cells of a selection whose scores are attributed to their genes; each takes ten passes of the tower."""
    labels: int = Field(default=1_000, ge=2)
    """Texts that labels of one request are put into."""
    exported_cells: int = Field(default=20_000, ge=1)
    """Cells of one h5ad, whose counts are in memory while it is made; a CSV may have a selection's."""
    answer_tokens: int = Field(default=1_024, ge=1)
    answer_seconds: float = Field(default=120, gt=0)
    conversations: int = Field(default=8, ge=1)
    """That one chat model answers at once."""
    requests_per_minute: int = Field(default=1_200, ge=1)
    """Of one key, or of one address where there are no keys; for each replica of the door."""
    ongoing: int = Field(default=64, ge=1)
    queued: int = Field(default=256, ge=1)
    """Requests that wait for a replica; the next one gets 503 and when to come back."""


class Settings(BaseModel):
    """Paths are local or fsspec URLs that every node of the cluster can open."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    index: str
    """Vector index, as `index` writes it."""
    joint: str | None = None
    """Joint model of the index, where it no longer lies where the index says."""
    cells: str | None = None
    """Cell store the index was made from: marker genes, expression of a gene, evidence."""
    cell_tower: bool = True
    """With `cells` and a joint model: `/interpret` loads its cell tower when first asked, and attributes
    scores to genes through it. False: genes of near cells against far ones."""
    features: str | None = None
    """Feature tables, as `features` writes them."""
    dashboard: str | None = None
    """Site about the features, as `dashboard` writes it: shown at /dashboard/."""
    sae: str | None = None
    """The sparse autoencoder of the features: which of them point the same way."""
    perturbation: str | None = None
    """Model directory, as `train-perturbation` writes it."""
    map: str | None = None
    """h5ad with a map of the cells, as `annotate` writes it. None: the plane in which they spread most."""
    text_precision: Literal["auto", "fp32", "bf16"] = "auto"
    """bf16: the text tower, a BERT on a CPU, multiplies in bfloat16, which is faster and a little off. auto:
    so where the CPU has instructions for it."""
    search_threads: int | None = Field(default=None, ge=1)
    """CPU threads of one scan of a large index, in each replica that has the cells. None: one a core, at
    most 8."""
    phrases: str | None = None
    """Phrase bank, as `phrases` writes it: what cells may be called."""
    chat: str | None = None
    """Chat model directory, as `train-chat` writes it: it words answers, and reads the cells themselves."""
    chat_gpus: float = Field(default=0, ge=0)
    """Of each replica of the chat model."""
    language_model: str | None = None
    """Base URL of an OpenAI-compatible server that words the answers, e.g. http://127.0.0.1:8001/v1; it is
    given the evidence as text, and with `chat` the cells as prompt embeddings where it takes them. None: the
    chat model answers, or without one answers are put together from the evidence alone."""
    language_model_name: str = "default"
    index_version: int | None = None
    """None: the newest; reconfiguring swaps it without dropping a request."""
    api_keys: str | None = None
    """File of hashed keys (`serve --new-api-key`). None: everyone who reaches the port may ask."""
    allow_origins: tuple[str, ...] = ()
    """Origins whose pages may call this server."""
    mcp: bool = False
    """Also answer as tools of the Model Context Protocol, at /mcp/."""
    feedback: str | None = None
    """Folder for thumbs of answers: the answer's id and the direction, no text and no embedding."""
    replicas: int = Field(default=1, ge=1)
    """Of each model and of the door, at first."""
    most_replicas: int | None = None
    """Scale up to so many under load. None: no scaling."""
    limits: Limits = Limits()

    @property
    def is_one_process(self) -> bool:
        """Whether all rooms are inside the door: one of each, and no more under load."""
        return self.replicas == 1 and self.most_replicas is None

    @model_validator(mode="after")
    def _replicas_in_order(self) -> Settings:
        if self.most_replicas is not None and self.most_replicas < self.replicas:
            raise ValueError(f"most_replicas {self.most_replicas} is less than replicas {self.replicas}")
        return self
