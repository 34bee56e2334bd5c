"""Names of the benches' rows, and checks that a row has what it reads."""

from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

from simsiam.pipeline.crops import Backend
from simsiam.pipeline.errors import UsageError

LoaderRowName = Literal[Backend, "imagefolder-pil", "imagefolder-pil-crops", "ffcv-loader", "copies"]
"""A backend of ours, or one of

- `imagefolder-pil`: a DataLoader over torchvision's ImageFolder with the reference transforms of two views, from crop
  to normalisation: what most trainings have;
- `imagefolder-pil-crops`: the same with nothing but the crops, as our backends deliver them;
- `ffcv-loader`: FFCV's own Loader, two crops;
- `copies`: one batch copied from page-locked memory to the GPU, over and over: the bound of every loader on the host.
"""

ConvertRowName = Literal["scan", "convert", "bytes-copied", "re-encoded", "ffcv-writer"]
"""One of

- `scan`: our list of the images with their sizes, nothing cached;
- `convert`: what `simsiam convert` does by default: usual JPEGs up to the longest side are copied;
- `bytes-copied`: the same without a limit to the side, so that all usual JPEGs are copied;
- `re-encoded`: the same with every image encoded anew;
- `ffcv-writer`: FFCV's own DatasetWriter with the same longest side and quality.
"""

StepRowName = Literal[
    "ours", "ours-fp32", "ours-bf16", "ours-compiled", "ours-fused", "ours-graphed", "baseline", "baseline-amp"
]
"""One of

- `ours`: the step of `simsiam pretrain`, with the given precision and compilation;
- `ours-fp32`, `ours-bf16`: the same in this precision;
- `ours-compiled`: the same through torch.compile;
- `ours-fused`: the same with batch norm, sum and ReLU as one operation, which is what `ours` has on a CPU;
- `ours-graphed`: the same as one CUDA graph, launched at once;
- `baseline`: what most trainings have: one pass a view, channels-first, float32, torch.nn's batch norm, torch's SGD;
- `baseline-amp`: the same in automatic mixed precision (bfloat16, or float16 on a GPU without it).
"""

TrainRowName = Literal["ours", "synthetic", "baseline", "baseline-amp"]
"""One of

- `ours`: our step fed by one of our loaders;
- `synthetic`: our step on crops that are ready on the device: the ceiling of `ours`;
- `baseline`, `baseline-amp`: the baseline's step, fed by a DataLoader over torchvision's ImageFolder with the
  reference transforms.
"""


def check_names(names: Sequence[str], choices: Sequence[str]) -> None:
    """Raise UsageError if no row is named, or one that isn't among `choices`."""
    if not names:
        raise UsageError(f"No row was named; choose from {', '.join(choices)}.")
    for name in names:
        if name not in choices:
            raise UsageError(f"There is no row {name}; choose from {', '.join(choices)}.")


def is_baseline(name: StepRowName | TrainRowName) -> bool:
    """Return whether a row takes the baseline's step."""
    return name.startswith("baseline")


def check_loader_row(name: LoaderRowName, source: Path, images: Path | None, gpu: bool) -> None:
    """Raise UsageError if a row lacks the data that it reads, its package, or the device that it measures."""
    if name in ("imagefolder-pil", "imagefolder-pil-crops"):
        check_folder(name, source, images)
    if name == "ffcv-loader" and source.is_dir():
        raise UsageError(
            f"The row {name} reads a .beton file, and {source} is a folder; convert it with simsiam convert."
        )
    if name == "copies" and not gpu:
        raise UsageError(f"The row {name} measures the copies to a GPU, and the device is the CPU; skip this row.")
    check_package(name)


def check_folder(name: LoaderRowName | TrainRowName, source: Path, images: Path | None) -> None:
    """Raise UsageError if there is no folder of images for a row that reads one instead of the source."""
    if images is None:
        raise UsageError(f"The row {name} reads a folder of images, and {source} is none; give that folder as well.")


def check_package(name: LoaderRowName | ConvertRowName) -> None:
    """Raise UsageError if the package that a row measures isn't installed."""
    if name in ("ffcv-loader", "ffcv-writer") and find_spec("ffcv") is None:
        raise UsageError(
            f"The row {name} needs the package ffcv, which isn't installed; skip this row, or see simsiam doctor."
        )
