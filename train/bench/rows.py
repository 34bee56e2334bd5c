"""The rows of the benches by name, and what each of them needs."""

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
- `copies`: a ready batch copied from page-locked memory to the GPU, over and over: the bound of what the host makes.
"""

FOLDER_ROWS = ("imagefolder-pil", "imagefolder-pil-crops")
"""These read the folder of images, not the source."""

ConvertRowName = Literal["scan", "convert", "bytes-copied", "re-encoded", "ffcv-writer"]
"""One of

- `scan`: our list of the images with their sizes, nothing remembered from before;
- `convert`: what `simsiam convert` does by default, which is to copy usual JPEGs of at most the longest side;
- `bytes-copied`: the same without a limit to the side, so that all usual JPEGs are copied;
- `re-encoded`: the same with every image encoded anew;
- `ffcv-writer`: FFCV's own DatasetWriter with the same longest side and quality.
"""

StepRowName = Literal[
    "ours", "ours-fp32", "ours-bf16", "ours-compiled", "ours-fused", "ours-graphed", "peer", "peer-amp"
]
"""One of

- `ours`: the step of `simsiam pretrain`, with the precision and the compilation that were asked for;
- `ours-fp32`, `ours-bf16`: the same in this precision;
- `ours-compiled`: the same through torch.compile;
- `ours-fused`: the same with batch norm, sum and ReLU as one operation, which is what `ours` has on a CPU;
- `ours-graphed`: the same as one CUDA graph, launched at once;
- `peer`: what most trainings have: one pass a view, channels-first, float32, torch.nn's batch norm, torch's SGD;
- `peer-amp`: the same in automatic mixed precision (bfloat16, or float16 on a GPU that lacks it).
"""
TrainRowName = Literal["ours", "synthetic", "peer", "peer-amp"]
"""One of

- `ours`: our step fed by one of our loaders; `synthetic`: by crops that lie ready on the device, which is its ceiling;
- `peer`, `peer-amp`: the peer's step fed by a DataLoader over torchvision's ImageFolder with the reference transforms.
"""


def check_loader_row(name: LoaderRowName, source: Path, images: Path | None, gpu: bool) -> None:
    """Raise UsageError when a row lacks what it reads, its package, or the device that it measures."""
    if name in FOLDER_ROWS and images is None:
        raise UsageError(f"The row {name} reads a folder of images, and {source} is none; give the folder as --images.")
    if name == "ffcv-loader" and source.is_dir():
        raise UsageError(
            f"The row {name} reads a .beton file, and {source} is a folder; simsiam convert makes one of it."
        )
    if name == "copies" and not gpu:
        raise UsageError("The row copies measures the way to the GPU, and the device is the CPU; leave it out.")
    check_package(name)


def check_package(name: LoaderRowName | ConvertRowName) -> None:
    """Raise UsageError when the peer that a row measures isn't installed."""
    if name in ("ffcv-loader", "ffcv-writer") and find_spec("ffcv") is None:
        raise UsageError(
            f"The row {name} needs the package ffcv, which isn't installed; leave it out, or see simsiam doctor."
        )
