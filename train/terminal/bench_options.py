"""Options that `simsiam bench step` and `simsiam bench train` share."""

from dataclasses import dataclass
from pathlib import Path

from simsiam.train.config import (
    Architecture,
    Compilation,
    DataConfig,
    DeviceName,
    ModelConfig,
    PrecisionName,
    PretrainConfig,
    Stem,
)
from simsiam.train.terminal.output_file import check_output


@dataclass(frozen=True)
class StepOptions:
    """The step that is measured, and for how long."""

    arch: Architecture = "resnet50"
    """Encoder."""
    stem: Stem = "imagenet"
    """Its first layers: `imagenet`, or `cifar` for images of about 32 pixels."""
    size: int = 224
    """Height and width of a view in pixels."""
    batch_size: int = 64
    """Images in a step, of two views each."""
    precision: PrecisionName = "auto"
    """Of our step; `auto`: bf16 on a GPU, fp16 on one that lacks it, fp32 on a CPU."""
    compile: Compilation = "off"
    """How our step is compiled by torch.compile."""
    seconds: float = 30.0
    """How long each row is measured."""
    rounds: int = 3
    """Turns that the seconds are shared by."""
    device: DeviceName = "auto"
    """Where to run; `auto` takes the GPU if there is one."""
    profile: Path | None = None
    """Write a trace of three steps of the first row to this .json, for chrome://tracing or ui.perfetto.dev."""
    json: Path | None = None
    """Also write environment and results to this file."""

    def check_outputs(self) -> None:
        """Raise UsageError where a file can't be written."""
        for file in (self.profile, self.json):
            if file:
                check_output(file, ".json")

    def config(self, data: DataConfig) -> PretrainConfig:
        """Return the configuration of a training on `data` with this step."""
        return PretrainConfig(
            batch_size=self.batch_size,
            device=self.device,
            precision=self.precision,
            compile=self.compile,
            model=ModelConfig(self.arch, self.stem),
            data=data,
        )
