"""Features of a frozen encoder: one vector for each image of a source."""

from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from simsiam.pipeline.errors import ImageError, UsageError
from simsiam.pipeline.loaders.torch_loader import leave_stopping_to_the_parent
from simsiam.pipeline.plan import LARGEST_CROP
from simsiam.pipeline.progress import Progress
from simsiam.pipeline.source import Source
from simsiam.pipeline.sources.open_source import open_source
from simsiam.pipeline.worker_count import worker_count
from simsiam.train.evaluation.center_crop import CenterCrop, center_crop, normalize
from simsiam.train.precision import Arithmetic


class Features(NamedTuple):
    """The features of a source, on the CPU."""

    vectors: torch.Tensor
    """float32 (n, d): the encoder's output after global average pooling."""
    labels: torch.Tensor
    """int64 (n,)."""


@torch.no_grad()
def extract_features(
    encoder: torch.nn.Module,
    source: Source | str | Path,
    transform: CenterCrop = CenterCrop(),  # noqa: B008 - a NamedTuple, which nobody can change
    arithmetic: Arithmetic | None = None,
    workers: int | None = None,
    batch_size: int = 256,
    progress: Progress | None = None,
) -> Features:
    """Run `encoder` in evaluation mode over every image of `source` in order; its mode is restored afterwards.

    Args:
        encoder: Images, float32 (n, 3, size, size), → features (n, d).
        source: An open source, or the path of a folder of images or a `.beton` file.
        transform: Centre crop and normalisation; give the size and the mean and std of the training.
        arithmetic: Device and precision; by default float32 where the encoder is.
        workers: Processes that decode; by default one for each core this program may use, 0: this process.
        batch_size: Images in a forward pass.
        progress: Called with (done, total) images.

    Raises ImageError naming an image that can't be decoded, and UsageError when the crop is empty, huge, or would
    reach past the images.
    """
    source = open_source(source) if isinstance(source, str | Path) else source
    arithmetic = arithmetic or Arithmetic(_device_of(encoder), "fp32")
    if not 1 <= transform.size <= LARGEST_CROP:
        raise UsageError(f"The size of a crop, {transform.size}, must lie between 1 and {LARGEST_CROP:,} pixels.")
    if not transform.size <= transform.short_side <= LARGEST_CROP:
        raise UsageError(
            f"The short side {transform.short_side} must lie between the crop's {transform.size} and {LARGEST_CROP:,}"
            " pixels."
        )
    loader = DataLoader(
        _CenterCrops(source, transform),
        batch_size=batch_size,
        num_workers=worker_count(workers),
        collate_fn=_stack,
        worker_init_fn=leave_stopping_to_the_parent,
    )
    # The mode of each module is restored: a frozen part may be in eval mode inside a model in training mode.
    training = [module for module in encoder.modules() if module.training]
    encoder.eval()
    vectors = []
    try:
        for pixels in loader:
            if isinstance(pixels, ImageError):
                raise ImageError(*pixels.args)  # a new one: raising a local would keep this frame and the workers alive
            with arithmetic.autocast():
                output = encoder(normalize(pixels, transform, arithmetic.device))
            vectors.append(output.float().cpu())
            if progress:
                progress(sum(map(len, vectors)), len(source))
    finally:
        for module in training:
            module.training = True
    return Features(torch.cat(vectors), torch.from_numpy(source.labels))


def _device_of(encoder: torch.nn.Module) -> torch.device:
    return next((parameter.device for parameter in encoder.parameters()), torch.device("cpu"))


class _CenterCrops(Dataset):
    def __init__(self, source: Source, transform: CenterCrop) -> None:
        self._source, self._transform = source, transform

    def __len__(self) -> int:
        return len(self._source)

    # An error is returned as an item, since PyTorch would wrap its message into the worker's traceback.
    def __getitem__(self, index: int) -> np.ndarray | ImageError:
        try:
            return center_crop(self._source.decode(index), self._transform.size, self._transform.short_side)
        except ImageError as error:
            return error


def _stack(crops: list[np.ndarray | ImageError]) -> torch.Tensor | ImageError:
    arrays = []
    for crop in crops:
        if isinstance(crop, ImageError):
            return crop
        arrays.append(crop)
    return torch.from_numpy(np.stack(arrays))
