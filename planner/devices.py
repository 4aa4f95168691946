"""What GPUs can do at best, by the names that their drivers report and by short ones."""

from __future__ import annotations

from dataclasses import dataclass


class UnknownDevice(ValueError):
    """No GPU of that name is known; the message lists those that are."""


@dataclass(frozen=True, slots=True)
class Device:
    """Vendor's figures; memory as the driver reports it."""

    name: str
    flops: float  # dense 16-bit with 32-bit sums, per second
    bytes_per_s: float
    memory_bytes: float
    draft_step_s: float = 1.0e-3  # one run of a 125 M draft model, bound by launches
    flops_8_bit: float = 0.0  # dense FP8; 0: weights of 8 bits are computed with in 16
    host_s: float = 0.0015  # per iteration, outside the model


A100 = Device("NVIDIA A100 80 GB SXM", 312e12, 2.039e12, 85.1e9)
H100 = Device("NVIDIA H100 80 GB SXM", 989e12, 3.35e12, 85.1e9, 0.8e-3, 1979e12)
H200 = Device("NVIDIA H200", 989e12, 4.8e12, 150.1e9, 0.8e-3, 1979e12)
CPU = Device("CPU", 0.2e12, 20e9, 16e9, 5e-3, host_s=0.004)  # a few cores, roughly

DEVICES: dict[str, Device] = {
    "t4": Device("NVIDIA T4", 65e12, 0.32e12, 15.8e9),
    "v100": Device("NVIDIA V100 32 GB SXM2", 125e12, 0.9e12, 34.1e9),
    "a10": Device("NVIDIA A10", 125e12, 0.6e12, 23.7e9),
    "a10g": Device("NVIDIA A10G", 70e12, 0.6e12, 23.7e9),
    "l4": Device("NVIDIA L4", 121e12, 0.3e12, 23.7e9, flops_8_bit=242e12),
    "l40s": Device("NVIDIA L40S", 362e12, 0.864e12, 47.7e9, flops_8_bit=733e12),
    "rtx-a6000": Device("NVIDIA RTX A6000", 155e12, 0.768e12, 51.0e9),
    "rtx-3090": Device("NVIDIA GeForce RTX 3090", 71e12, 0.936e12, 25.3e9),
    "rtx-4090": Device("NVIDIA GeForce RTX 4090", 165e12, 1.008e12, 25.3e9, flops_8_bit=330e12),
    "a100-40gb": Device("NVIDIA A100 40 GB SXM", 312e12, 1.555e12, 42.3e9),
    "a100": A100,
    "a100-pcie": Device("NVIDIA A100 80 GB PCIe", 312e12, 1.935e12, 85.1e9),
    "h20": Device("NVIDIA H20", 148e12, 4.0e12, 102e9, 0.8e-3, 296e12),
    "h100": H100,
    "h100-pcie": Device("NVIDIA H100 PCIe", 756e12, 2.0e12, 85.0e9, 0.8e-3, 1513e12),
    "h100-nvl": Device("NVIDIA H100 NVL", 835e12, 3.9e12, 100e9, 0.8e-3, 1671e12),
    "gh200": Device("NVIDIA GH200 96 GB", 989e12, 4.0e12, 102e9, 0.8e-3, 1979e12),
    "h200": H200,
    "b200": Device("NVIDIA B200", 2250e12, 7.7e12, 191e9, 0.8e-3, 4500e12),
    "mi300x": Device("AMD Instinct MI300X", 1307e12, 5.3e12, 206e9, 0.8e-3, 2615e12),
    "cpu": CPU,
}

REPORTED = {  # as drivers call them, where that is neither the name above nor the short one
    "A100-SXM4-80GB": "a100",
    "A100-SXM4-40GB": "a100-40gb",
    "A100-PCIE-40GB": "a100-40gb",
    "A100 80GB PCIe": "a100-pcie",
    "A800-SXM4-80GB": "a100",
    "H100 80GB HBM3": "h100",
    "H800": "h100",
    "GH200 480GB": "gh200",
    "Tesla V100-SXM2-32GB": "v100",
}


def device(name: str) -> Device:
    """The device called `name`, short or as the driver reports it. Raises UnknownDevice."""
    found = DEVICES.get(_BY_PLAIN_NAME.get(_plain(name), ""))
    if found is None:
        raise UnknownDevice(f"unknown GPU {name!r}: choose one of {', '.join(DEVICES)}")
    return found


def short_name(known: Device) -> str:
    """The key of a device in DEVICES."""
    return next(key for key, each in DEVICES.items() if each == known)


def _plain(name: str) -> str:
    """Letters and digits alone, without makers and brands."""
    words = (
        name.lower().replace("nvidia", " ").replace("geforce", " ").replace("amd instinct", " ").replace("tesla", " ")
    )
    return "".join(letter for letter in words if letter.isalnum())


_BY_PLAIN_NAME = {
    **{_plain(key): key for key in DEVICES},
    **{_plain(each.name): key for key, each in DEVICES.items()},
    **{_plain(reported): key for reported, key in REPORTED.items()},
}
