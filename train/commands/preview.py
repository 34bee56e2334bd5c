"""`simsiam preview`: images → a PNG of what the encoder will be shown."""

from collections.abc import Sequence
from pathlib import Path

import tyro

from simsiam.pipeline.draw import Augmentation
from simsiam.pipeline.loader import Backend
from simsiam.train.arguments import call
from simsiam.train.commands.output_file import check_ending

_REFERENCE_AUGMENTATION = Augmentation()


def preview(
    path: tyro.conf.Positional[Path],
    out: Path = Path("preview.png"),
    size: int = 224,
    count: int = 8,
    seed: int = 0,
    epoch: int = 0,
    backend: Backend = "torch",
    augmentation: Augmentation = _REFERENCE_AUGMENTATION,
) -> None:
    """Draw originals, crops and augmented views side by side: what the encoder will be shown.

    Args:
        path: Folder of images, or .beton file.
        out: The PNG to write.
        size: Height and width of a view in pixels.
        count: Images on the sheet.
        seed: Seed of order and augmentation, as of `pretrain`.
        epoch: Epoch whose views are drawn.
        backend: What decodes and crops.
        augmentation: Distributions the views are drawn from.
    """
    from simsiam.pipeline.source import open_source
    from simsiam.train.preview import preview

    check_ending(out, ".png")
    written = preview(
        open_source(path),
        out,
        augmentation=augmentation,
        size=size,
        count=count,
        seed=seed,
        epoch=epoch,
        backend=backend,
    )
    print(written)


def run(arguments: Sequence[str], prog: str) -> int:
    """Read the options from the command line and do it; returns the exit code."""
    return call(preview, arguments, prog)
