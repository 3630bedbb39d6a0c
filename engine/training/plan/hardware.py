"""Rates and sizes of the machines that a plan is made for."""

from dataclasses import dataclass, replace
from typing import Literal


@dataclass(frozen=True, kw_only=True)
class Hardware:
    """One kind of device and how it is connected. Rates are what is reached, not what is printed on the box.

    The defaults are an H200 as specs/sae.md section 3 takes it: 780 TFLOP/s of bf16 products and 3.84 TB/s of
    gathers out of 141 GB, 370 GB/s to each GPU of its node and 45 GB/s to other nodes.
    """

    name: str = "H200"
    device: Literal["cpu", "cuda"] = "cuda"
    """Whose buffer sizes and precision the sparse step uses."""
    memory_bytes: float = 141e9
    """Of one GPU."""
    flops: float = 780e12
    """Floating-point operations a second in matrix products of the training precision."""
    memory_bandwidth: float = 3.84e12
    """Bytes a second."""
    node_bandwidth: float = 370e9
    """Bytes a second between GPUs of a node (NVLink)."""
    network_bandwidth: float = 45e9
    """Bytes a second and GPU between nodes (InfiniBand)."""
    gpus_per_node: int = 8

    @property
    def rates(self) -> str:
        """What the plan's seconds rest on."""
        return (
            f"{self.flops / 1e12:g} TFLOP/s, {self.memory_bandwidth / 1e12:g} TB/s of memory, "
            f"{self.node_bandwidth / 1e9:g} GB/s in a node, {self.network_bandwidth / 1e9:g} between nodes"
        )

    def with_memory(self, memory_bytes: float) -> "Hardware":
        """The same with more or less memory."""
        return replace(self, name=f"a GPU of {memory_bytes / 1e9:g} GB", memory_bytes=memory_bytes)


H200 = Hardware()
