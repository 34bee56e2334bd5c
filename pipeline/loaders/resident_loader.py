"""The resident backend: a small set, decoded once and kept on the device; crops are two batched matrix products."""

from collections.abc import Iterator
from functools import partial

import numpy as np
import numpy.typing as npt
import torch

from simsiam.pipeline.augmentation import Draws
from simsiam.pipeline.crops import CropLoader, Crops
from simsiam.pipeline.errors import ImageError, UsageError
from simsiam.pipeline.loaders.device_copy import upload
from simsiam.pipeline.loaders.replace_broken import Rows, crop_good_samples
from simsiam.pipeline.plan import CropPlan
from simsiam.pipeline.progress import Progress
from simsiam.pipeline.source import Source

RESIDENT_LIMIT_BYTES = 2**30
"""The largest decoded set that is kept on the device: 1 GiB, about 340,000 images of 32 × 32 pixels."""


def resident_bytes(source: Source) -> int:
    """Return the memory of the decoded set in bytes: every image is padded to the largest height and width."""
    height, width = (int(side) for side in source.sizes.max(axis=0))
    return len(source) * height * width * 3


class ResidentLoader(CropLoader):
    """Decodes the set once, in this process, then crops on the device, from the same draws as every other backend.

    Resizing is separable and linear, so a crop with Pillow's antialiased bilinear filter is Y · image · Xᵀ, with one
    row of weights for every output pixel. Columns come first here; Pillow 13 takes rows first where that is cheaper
    (python-pillow/Pillow pull request 9549), and each order rounds in between. So the result is within two grey levels
    of Pillow's, 0.3 on average at worst.

    Raises UsageError when the set takes more than `RESIDENT_LIMIT_BYTES`, and ImageError when an image is broken,
    unless `plan.on_broken` is `replace`.
    """

    def __init__(
        self, plan: CropPlan, device: torch.device, workers: int = 0, progress: Progress | None = None
    ) -> None:
        self.check(plan)
        self._plan = plan
        self._device = device
        height, width = (int(side) for side in plan.source.sizes.max(axis=0))
        images = torch.zeros((len(plan.source), height, width, 3), dtype=torch.uint8)
        self._broken: dict[int, ImageError] = {}
        for index in range(len(plan.source)):
            try:
                image = plan.source.decode(index)
                images[index, : image.shape[0], : image.shape[1]] = torch.from_numpy(image)
            except ImageError as error:
                if plan.on_broken == "error":
                    raise
                self._broken[index] = error
            if progress:
                progress(index + 1, len(plan.source))
        self._images: torch.Tensor | None = images.to(device)
        self._labels = torch.from_numpy(plan.source.labels).to(device)

    @staticmethod
    def check(plan: CropPlan) -> None:
        """Raise UsageError when the decoded images take more than `RESIDENT_LIMIT_BYTES`."""
        needed = resident_bytes(plan.source)
        if needed > RESIDENT_LIMIT_BYTES:
            raise UsageError(
                f"The decoded images take {needed / 2**30:.1f} GiB, more than the {RESIDENT_LIMIT_BYTES / 2**30:.0f}"
                " GiB that the resident backend keeps; use another backend."
            )

    def __len__(self) -> int:
        """Steps in an epoch, equal on every rank."""
        return len(self._plan)

    def epoch(self, epoch: int, first_step: int = 0) -> Iterator[Crops]:
        """Yield the steps of one epoch from `first_step` on."""
        if self._images is None:
            raise UsageError("This loader is closed; open a new one.")
        for step in range(first_step, len(self)):
            host_index, host_draws = self._plan.step(epoch, step)
            rows, crop = np.arange(len(host_index)), partial(self._broken_rows, host_index)
            self.replaced += crop_good_samples(self._plan, epoch, host_index, host_draws, rows, crop)
            index = upload(host_index, self._device)
            draws = Draws(*(upload(part, self._device) for part in host_draws))
            pixels = crop_by_matrix_products(self._images[index], draws.crop, self._plan.crop_size)
            yield Crops(pixels, draws, index, self._labels[index])

    def close(self) -> None:
        """Free the images."""
        self._images = None

    def _broken_rows(self, index: npt.NDArray[np.int64], rows: Rows) -> dict[int, ImageError]:
        return {row: self._broken[sample] for row in rows.tolist() if (sample := int(index[row])) in self._broken}


def crop_by_matrix_products(images: torch.Tensor, crop: torch.Tensor, size: int) -> torch.Tensor:
    """Crop V boxes of each image and resize them with an antialiased bilinear filter.

    `images` is uint8 (N, H, W, 3), `crop` int32 (N, V, 4: top, left, height, width), both on one device; returns uint8
    (N, V, size, size, 3) there.
    """
    count, height, width, channels = images.shape
    views = crop.shape[1]
    rows = resize_weights(crop[..., 0], crop[..., 2], height, size)  # (N, V, S, H)
    columns = resize_weights(crop[..., 1], crop[..., 3], width, size)  # (N, V, S, W)
    # Columns first, rounded to whole grey levels in between, as Pillow does.
    image = images.float().permute(0, 2, 1, 3).reshape(count, 1, width, height * channels)
    narrow = (columns @ image).add_(0.5).floor_()  # (N, V, S, H·3)
    narrow = narrow.view(count, views, size, height, channels).transpose(2, 3)
    small = (rows @ narrow.reshape(count, views, height, size * channels)).add_(0.5).floor_()
    return small.view(count, views, size, size, channels).to(torch.uint8)


def resize_weights(start: torch.Tensor, length: torch.Tensor, source_size: int, size: int) -> torch.Tensor:
    """Return the weight of each source pixel in each output pixel along one axis, float32 (…, size, source_size).

    A triangle of half-width max(1, length / size) around the output pixel's centre, cut off at the crop's borders and
    normalised: Pillow's BILINEAR filter, which is the usual bilinear interpolation where the crop is enlarged.
    """
    start, length = start[..., None, None].float(), length[..., None, None].float()
    scale = length / size
    half_width = scale.clamp(min=1.0)
    center = start + (torch.arange(size, device=start.device)[:, None] + 0.5) * scale
    position = torch.arange(source_size, device=start.device) + 0.5
    weights = (1 - (position - center).abs() / half_width).clamp(min=0)
    weights = weights * ((position > start) & (position < start + length))
    return weights / weights.sum(dim=-1, keepdim=True)
