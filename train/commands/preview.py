"""`simsiam preview`: images → a PNG of what the encoder will be shown."""

from collections.abc import Sequence
from pathlib import Path
from typing import get_args

import tyro
from rich.console import Console

from simsiam.pipeline.augmentation import Augmentation
from simsiam.pipeline.crops import Backend
from simsiam.pipeline.plan import OnBroken
from simsiam.train.terminal.arguments import call, split_at_commas
from simsiam.train.terminal.console import show_progress
from simsiam.train.terminal.output_file import check_output

_REFERENCE_AUGMENTATION = Augmentation()


def preview(
    path: tyro.conf.Positional[Path],
    out: Path = Path("preview.png"),
    size: int = 224,
    count: int = 8,
    seed: int = 0,
    epoch: int = 0,
    backend: tuple[Backend, ...] = ("auto",),
    on_broken: OnBroken = "error",
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
        backend: What decodes and crops; of several, as in torch,ffcv, the same draws are shown side by side.
        on_broken: An image that can't be decoded is an error, or the next good one stands in for it.
        augmentation: Distributions the views are drawn from.
    """
    from simsiam.pipeline.sources.open_source import open_source
    from simsiam.train.preview import preview

    check_output(out, ".png")
    with show_progress(Console(), "Decoding", "images") as progress:
        written = preview(
            open_source(path),
            out,
            augmentation=augmentation,
            size=size,
            count=count,
            seed=seed,
            epoch=epoch,
            backends=backend,
            on_broken=on_broken,
            progress=progress,
        )
    print(written)


def run(arguments: Sequence[str], prog: str) -> int:
    """Read the options from the command line and do it; returns the exit code."""
    return call(preview, split_at_commas(arguments, get_args(Backend)), prog)
