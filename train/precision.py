"""Arithmetic of a run: device, dtype, autocast and loss scaling, chosen by the names of a device and a precision."""

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch.amp.grad_scaler import GradScaler

from simsiam.pipeline.errors import UsageError
from simsiam.train.config import DeviceName, PrecisionName

_AUTOCAST = {"bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True)
class Arithmetic:
    """How the network computes. Weights, batch-norm statistics and the loss are always float32."""

    device: torch.device
    name: Literal["bf16", "fp16", "tf32", "fp32"]
    scaler: GradScaler = field(init=False, repr=False, compare=False)
    """Scales the loss so that small gradients don't underflow in float16; does nothing in other precisions."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "scaler", GradScaler(self.device.type, enabled=self.name == "fp16"))

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of the views."""
        return _AUTOCAST.get(self.name, torch.float32)

    def autocast(self) -> AbstractContextManager:
        """Return the context that the network's forward pass runs in."""
        return torch.autocast(self.device.type, self.dtype) if self.name in _AUTOCAST else nullcontext()


def open_device(name: DeviceName) -> torch.device:
    """Return the device. Raises UsageError if `name` is `cuda` and there is no GPU."""
    available = torch.cuda.is_available()
    if name == "cuda" and not available:
        why = "this PyTorch is built without CUDA" if torch.version.cuda is None else "PyTorch sees no GPU"
        raise UsageError(
            f"The device cuda was asked for, but {why}; use cpu, or run simsiam doctor.", argument="device"
        )
    return torch.device("cuda", torch.cuda.current_device()) if available and name != "cpu" else torch.device("cpu")


def choose_arithmetic(device: torch.device, name: PrecisionName) -> Arithmetic:
    """Return the arithmetic of a precision on a device, and set PyTorch's global switches to match.

    `auto` is bf16 on a GPU, fp16 on one without bf16, fp32 on a CPU. Raises UsageError for tf32 on a CPU.
    """
    if name == "auto":
        name = "fp32"
        if device.type == "cuda":
            name = "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp16"
    if name == "tf32" and device.type != "cuda":
        raise UsageError("The precision tf32 is a GPU's; on a CPU use fp32 or bf16.", argument="precision")
    # tf32 for convolutions only: the resident backend crops by matrix products, which must not depend on it.
    torch.set_float32_matmul_precision("highest")
    torch.backends.cudnn.allow_tf32 = name == "tf32"
    return Arithmetic(device, name)
