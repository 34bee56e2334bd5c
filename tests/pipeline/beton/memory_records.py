from collections.abc import Sequence

import numpy as np

from simsiam.pipeline.decode import decode_image


class MemoryRecords:
    """Encoded images in memory; `Records`."""

    broken: Sequence[tuple[str, str]] = ()
    name_prefix = ""
    files_hash = ""

    def __init__(self, images: list[bytes], labels: list[int] | None = None, classes: Sequence[str] = ()) -> None:
        self.images, self.classes = images, classes
        self.labels = np.array([-1] * len(images) if labels is None else labels, np.int64)

    def __len__(self) -> int:
        return len(self.images)

    def name(self, index: int) -> str:
        return f"dir/{index}.png"

    def read(self, index: int) -> bytes:
        return self.images[index]

    def decode(self, index: int) -> np.ndarray:
        return decode_image(self.images[index], self.name(index))
