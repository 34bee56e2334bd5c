"""Frozen encoder and a source → one feature vector an image."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from simsiam.pipeline.errors import ImageError, UsageError
from simsiam.pipeline.loaders.torch_loader import leave_stopping_to_the_parent
from simsiam.pipeline.plan import LARGEST_CROP
from simsiam.pipeline.source import Source
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
    source: Source,
    transform: CenterCrop,
    arithmetic: Arithmetic,
    workers: int,
    batch_size: int = 256,
    progress: Callable[[int, int], None] | None = None,
) -> Features:
    """Run `encoder` in eval mode over every image of `source` in order; its mode is as before afterwards.

    Raises ImageError naming an image that can't be decoded, and UsageError when the crop is empty, huge, or would
    reach past the images.
    """
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
        num_workers=workers,
        collate_fn=_stack,
        worker_init_fn=leave_stopping_to_the_parent,
    )
    # The modes are kept module by module: a frozen part may be in eval mode inside a training model.
    training = [module for module in encoder.modules() if module.training]
    encoder.eval()
    vectors = []
    try:
        for pixels in loader:
            if isinstance(pixels, ImageError):
                raise ImageError(*pixels.args)  # anew: a raised local would keep this frame, and the workers, alive
            with arithmetic.autocast():
                output = encoder(normalize(pixels, transform, arithmetic.device))
            vectors.append(output.float().cpu())
            if progress:
                progress(sum(map(len, vectors)), len(source))
    finally:
        for module in training:
            module.training = True
    return Features(torch.cat(vectors), torch.from_numpy(source.labels))


class _CenterCrops(Dataset):
    def __init__(self, source: Source, transform: CenterCrop) -> None:
        self._source, self._transform = source, transform

    def __len__(self) -> int:
        return len(self._source)

    # An error is handed over as an item, since PyTorch would wrap its message into the worker's traceback.
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
