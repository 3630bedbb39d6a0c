"""Flags: typed options from the command line and, below them, from a YAML file."""

import inspect
from collections.abc import Sequence
from dataclasses import dataclass, fields, make_dataclass
from typing import Any, Literal, TypeVar

import tyro

from jobs.anatomy.option_files import arguments_from_yaml
from storage.errors import InputError
from storage.locations import Location


@dataclass(kw_only=True)
class JobOptions:
    """The flags common to all jobs (design section 4)."""

    output: str | None = None
    """Where the job writes: a local path or an fsspec URL (s3://, gs://, memory://)."""
    config: str | None = None
    """YAML file with defaults for any flag of this job; flags on the command line win."""
    address: str | None = None
    """Ray address. Default: the cluster we are in, else an embedded Ray that ends with the job."""
    max_cells: int | None = None
    """Use only the first N cells of the input."""
    seed: int = 0
    """Seed of everything random in this job."""
    overwrite: bool = False
    """Remove what is at --output and start anew. Default: resume it."""
    json: bool = False
    """Print the run.json summary as the last line of stdout."""
    log: Literal["text", "json"] = "text"
    """What goes to stderr. json: an object a line, with job id, dataset, step or count so far."""

    def __post_init__(self) -> None:
        if self.max_cells is not None and self.max_cells < 1:
            raise InputError(f"--max-cells is {self.max_cells}; it must be at least 1.")

    @property
    def output_location(self) -> Location:
        if not self.output:
            raise InputError("--output is missing: say where the result goes (a path or an fsspec URL).")
        return Location.of(self.output)


OptionsType = TypeVar("OptionsType", bound=JobOptions)


def comma_separated(text: str) -> tuple[str, ...]:
    """`"cls, mean"` -> `("cls", "mean")`."""
    return tuple(part.strip() for part in text.split(",") if part.strip())


def parse(name: str, options_type: type[OptionsType], argv: Sequence[str]) -> OptionsType:
    """Options from flags and, below them, from the YAML file of `--config`.

    Options made of several classes of flags name them in `GROUPS`, title -> class: `--help` shows the flags
    of each class together, under its own words.
    """
    expanded = arguments_from_yaml(list(argv), options_type)
    groups: dict[str, type] = getattr(options_type, "GROUPS", {})
    if not groups:
        return tyro.cli(options_type, prog=f"syncytium {name}", args=expanded)
    grouped: Any = tyro.cli(
        make_dataclass("Grouped", groups.items(), kw_only=True),
        prog=f"syncytium {name}",
        description=inspect.getdoc(options_type),
        args=expanded,
        config=(tyro.conf.OmitArgPrefixes,),
    )
    parts = (getattr(grouped, title) for title in groups)
    return options_type(**{field.name: getattr(part, field.name) for part in parts for field in fields(part)})
