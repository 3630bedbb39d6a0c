"""A plan as numbers, as JSON and as a table to read."""

from dataclasses import asdict, dataclass
from typing import Any

from engine.training.plan.hardware import Hardware
from storage.errors import InputError

# What CUDA, NCCL and the allocator keep for themselves; a plan that leaves less is refused.
RESERVED_SHARE = 0.05


@dataclass(frozen=True)
class Transfer:
    """Bytes that one GPU sends in an optimiser step, over which link, and what that takes."""

    name: str
    bytes: float
    link: str
    seconds: float


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What a run needs and how long it takes. Bytes are per GPU, transfers and seconds per optimiser step."""

    title: str
    hardware: Hardware
    parameters: int
    """Of the whole model."""
    parameters_per_gpu: int
    """Of the features that one GPU holds; ZeRO shares these out further."""
    memory: dict[str, int]
    """Bytes by term."""
    traffic: tuple[Transfer, ...]
    compute: dict[str, float]
    """Seconds by term."""
    batch_tokens: int
    tokens: int
    """Of the whole run."""
    source_tokens_per_second: float | None
    """What gives the training tokens cannot be faster than this."""
    advice: str = "Raise --feature-parallel, --accumulation or --zero, or lower --width or --batch-tokens."
    """What to do when it does not fit."""

    @property
    def memory_bytes(self) -> int:
        """Of one GPU, at the peak of a step."""
        return sum(self.memory.values())

    @property
    def fits(self) -> bool:
        return self.memory_bytes <= self.hardware.memory_bytes * (1 - RESERVED_SHARE)

    @property
    def step_seconds(self) -> float:
        """Products and transfers one after the other: what overlaps comes on top."""
        return sum(self.compute.values()) + sum(transfer.seconds for transfer in self.traffic)

    @property
    def tokens_per_second(self) -> float:
        """Of all GPUs together, at the stated rates or the rate of the source of tokens."""
        reached = self.batch_tokens / self.step_seconds
        return min(reached, self.source_tokens_per_second or reached)

    @property
    def hours(self) -> float:
        return self.tokens / self.tokens_per_second / 3600

    def require_fits(self) -> None:
        """Raises InputError, with the largest terms, when a GPU has too little memory."""
        if self.fits:
            return
        largest = sorted(self.memory.items(), key=lambda term: -term[1])[:3]
        terms = ", ".join(f"{name} {_gb(size)}" for name, size in largest)
        raise InputError(
            f"{self.title}: needs {_gb(self.memory_bytes)} on each GPU ({terms}); {self.hardware.name} has "
            f"{_gb(self.hardware.memory_bytes)}, of which {RESERVED_SHARE:.0%} stay free. {self.advice}"
        )

    def as_json(self) -> dict[str, Any]:
        """Every number, as plain JSON values."""
        derived = ("memory_bytes", "fits", "step_seconds", "tokens_per_second", "hours")
        return asdict(self) | {name: getattr(self, name) for name in derived}

    def text(self) -> str:
        """The table that a dry run prints."""
        rate = f"{self.tokens_per_second:,.0f}, a step of {self.batch_tokens:,} in {_ms(self.step_seconds)}"
        lines = [
            self.title,
            f"  parameters          {self.parameters:,} ({self.parameters_per_gpu:,} on each GPU)",
            f"  memory per GPU      {_gb(self.memory_bytes)} of {_gb(self.hardware.memory_bytes)}"
            + ("" if self.fits else "  DOES NOT FIT"),
            *(f"    {name:<18}{_gb(size):>10}" for name, size in self.memory.items()),
            "  traffic per step and GPU" + ("" if self.traffic else ": none"),
            *(f"    {t.name:<34}{_gb(t.bytes):>10}  {t.link:<8}{_ms(t.seconds):>12}" for t in self.traffic),
            "  compute per step",
            *(f"    {name:<34}{_ms(seconds):>12}" for name, seconds in self.compute.items()),
            f"  tokens per second   {rate}",
            f"  {self.tokens:,} tokens   {self.hours:,.2f} hours",
            f"  at rates of {self.hardware.rates}",
        ]
        return "\n".join(lines)


def _gb(size: float) -> str:
    return f"{size / 1e9:,.2f} GB" if size >= 1e7 else f"{size / 1e6:,.3f} MB"


def _ms(seconds: float) -> str:
    return f"{seconds * 1e3:,.2f} ms"
