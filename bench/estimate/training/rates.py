"""Rates: what one device sustains, as against what its datasheet says.

A datasheet gives peaks; no kernel reaches them. What is reached is measured on a lab's own device (calibration), or the
datasheet times a fraction that was fitted to published measurements of its kind. Either way it ends as a `DeviceRates`.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

from bench.chip import Chip

# Where a device has no rate for a type, the product runs in the next type that it has: V100 has no bf16, A100 no fp8.
_FALLBACK = {
    "fp4": ("fp8", "bf16", "fp16"),
    "fp8": ("bf16", "fp16"),
    "bf16": ("fp16", "fp32"),
    "fp16": ("bf16", "fp32"),
    "tf32": ("fp32", "bf16"),
    "fp32": ("tf32", "bf16"),
}
_HALF = ("bf16", "fp16", "fp32")
PCIE_BYTES_PER_S = 25e9  # one way, PCIe 4.0 x16 less its framing: devices without links of their own
# One way, for each device, where nobody says: what machines of the time were sold with. DGX A100 has 200 Gb/s a device,
# DGX H100 and B200 400 Gb/s (NVIDIA's datasheets of these systems); before them 100 Gb/s were shared by a node.
_NETWORK = {"Volta": 3e9, "Ampere GA100": 25e9, "Hopper": 50e9, "Blackwell GB1": 50e9, "CDNA 3": 50e9, "CDNA 4": 50e9}
_OTHER_NETWORK = 3e9
# One way, where the chip's file has no figure: NeuronLink-v2 of a Trn1, 384 GB/s both ways (AWS, Trn1 architecture).
_LINK = {"NeuronCore v2": 192e9}


@dataclass(frozen=True, kw_only=True)
class Speeds:
    """The rates that one job meets, at its precision. In a fit each is an array with a value for each row."""

    matmul_flops_per_s: float
    attention_flops_per_s: float
    half_flops_per_s: float  # products that stay in 16 bits whatever the precision: those of unfused attention
    memory_bytes_per_s: float
    optimizer_bytes_per_s: float
    link_bytes_per_s: float
    network_bytes_per_s: float
    launch_s: float
    kernel_s: float


@dataclass(frozen=True, kw_only=True)
class DeviceRates:
    """Sustained rates of one device. Each can be measured: it is a slope or an intercept of one micro benchmark."""

    matmul_flops_per_s: Mapping[str, float] = field(hash=False)  # by precision, large square products held for long
    attention_flops_per_s: float  # fused causal attention, long sequences, forward and backward together
    memory_bytes_per_s: float
    optimizer_bytes_per_s: float  # of a fused AdamW over all its states
    link_bytes_per_s: float  # to the other devices of the node, one way
    network_bytes_per_s: float  # to other nodes, one way
    launch_s: float  # the host, for each kernel that it launches
    kernel_s: float  # the device, for each kernel, besides the kernel's work

    def at(self, precision: str) -> Speeds:
        """The rates for a job of that precision."""
        half = precision if precision in ("fp32", "tf32") else "bf16"
        return Speeds(
            matmul_flops_per_s=self.matmul_flops_per_s[runs_in(self.matmul_flops_per_s, precision)],
            attention_flops_per_s=self.attention_flops_per_s,
            half_flops_per_s=self.matmul_flops_per_s[runs_in(self.matmul_flops_per_s, half)],
            memory_bytes_per_s=self.memory_bytes_per_s,
            optimizer_bytes_per_s=self.optimizer_bytes_per_s,
            link_bytes_per_s=self.link_bytes_per_s,
            network_bytes_per_s=self.network_bytes_per_s,
            launch_s=self.launch_s,
            kernel_s=self.kernel_s,
        )


@dataclass(frozen=True, kw_only=True)
class Fractions:
    """How much of a datasheet is sustained, and the costs that no datasheet gives."""

    matmul: Mapping[str, float] = field(hash=False)  # by precision
    attention: float  # of the 16-bit peak
    memory: float
    optimizer: float  # of the memory's bandwidth
    link: float
    network: float
    launch_s: float
    kernel_s: float


def from_chip(
    chip: Chip, fractions: Fractions, *, link_bytes_per_s: float | None = None, network_bytes_per_s: float | None = None
) -> DeviceRates:
    """What a chip sustains by its datasheet times fractions; links and network as given, else the usual ones."""
    link = link_bytes_per_s or usual_link_bytes_per_s(chip)
    network = network_bytes_per_s or usual_network_bytes_per_s(chip)
    return DeviceRates(
        matmul_flops_per_s={
            precision: chip.flops_per_s[precision] * fraction
            for precision, fraction in fractions.matmul.items()
            if precision in chip.flops_per_s
        },
        attention_flops_per_s=peak_flops_per_s(chip, "bf16") * fractions.attention,
        memory_bytes_per_s=chip.memory_bytes_per_s * fractions.memory,
        optimizer_bytes_per_s=chip.memory_bytes_per_s * fractions.optimizer,
        link_bytes_per_s=link * fractions.link,
        network_bytes_per_s=network * fractions.network,
        launch_s=fractions.launch_s,
        kernel_s=fractions.kernel_s,
    )


def peak_flops_per_s(chip: Chip, precision: str) -> float:
    """The datasheet's dense peak of the type that a product of that precision runs in."""
    return chip.flops_per_s[runs_in(chip.flops_per_s, precision)]


def runs_in(rates: Mapping[str, float], precision: str) -> str:
    """The type that a product of that precision runs in, of those that there are rates for."""
    return next((name for name in (precision, *_FALLBACK.get(precision, ()), *_HALF) if name in rates), min(rates))


def usual_link_bytes_per_s(chip: Chip) -> float:
    """What such a device has to others of its node: its links, or the bus that it is plugged into."""
    return chip.link_bytes_per_s or _LINK.get(chip.architecture, PCIE_BYTES_PER_S)


def usual_network_bytes_per_s(chip: Chip) -> float:
    """What such a device has to other nodes, where nobody says."""
    return next((rate for name, rate in _NETWORK.items() if chip.architecture.startswith(name)), _OTHER_NETWORK)
