"""`simsiam preview`: a PNG of what the encoder will be shown."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from rich.console import Console

from simsiam.pipeline.augmentation import Augmentation
from simsiam.pipeline.crops import Backend
from simsiam.pipeline.plan import OnBroken
from simsiam.train.terminal.advice import broken_image_advice
from simsiam.train.terminal.arguments import parse
from simsiam.train.terminal.console import show_progress
from simsiam.train.terminal.exit_codes import DONE
from simsiam.train.terminal.output_file import check_output


@dataclass(frozen=True)
class PreviewOptions:
    """Draw originals, crops and augmented views side by side: what the encoder will be shown."""

    source: Path
    """Folder of images, or .beton file."""
    out: Path = Path("preview.png")
    """The PNG to write."""
    size: int = 224
    """Height and width of a view in pixels."""
    count: int = 8
    """Images on the sheet."""
    seed: int = 0
    """Seed of order and augmentation, as in `pretrain`."""
    epoch: int = 0
    """Epoch whose views are drawn."""
    backend: tuple[Backend, ...] = ("auto",)
    """What decodes and crops. Several, such as torch,ffcv, execute the same draws, and are shown side by side."""
    on_broken: OnBroken = "error"
    """An image that can't be decoded is an error, or the next good one takes its place (`replace`)."""
    augmentation: Augmentation = field(default_factory=Augmentation)


def run(arguments: Sequence[str], prog: str) -> int:
    """Draw the sheet and print the file's name."""
    options = parse(PreviewOptions, arguments, prog)
    from simsiam.pipeline.sources.open_source import open_source
    from simsiam.train.preview import preview

    check_output(options.out, ".png")
    source = open_source(options.source)
    advice = broken_image_advice(options.source, options.on_broken, "--on-broken replace")
    with show_progress(Console(), "Decoding", "images") as progress, advice:
        written = preview(
            source,
            options.out,
            augmentation=options.augmentation,
            size=options.size,
            count=options.count,
            seed=options.seed,
            epoch=options.epoch,
            backends=options.backend,
            on_broken=options.on_broken,
            progress=progress,
        )
    print(written)
    return DONE
