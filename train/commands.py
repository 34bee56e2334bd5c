"""The commands of the command line: options in, one call of the module that does the work, result printed.

Each imports what it needs itself, so that `simsiam --help` does not wait for torch.
"""

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import tyro
from rich.console import Console

from simsiam.pipeline.draw import Augmentation
from simsiam.pipeline.loader import Backend
from simsiam.train import config as configuration
from simsiam.train.config import DeviceName
from simsiam.train.console import show_progress

DONE, FAILED, USAGE, INTERRUPTED = 0, 1, 2, 130
"""Exit codes of every command."""

_REFERENCE_AUGMENTATION = Augmentation()


def doctor() -> int:
    """Show versions, devices and backends, what is missing, and how to get it. Exit code 1 if something is wrong."""
    from simsiam.train.doctor import report

    return DONE if report(Console()) else FAILED


def demo(
    out: Path = Path("runs/demo"),
    epochs: int | None = None,
) -> None:
    """Make a small image set, convert it, pretrain on whatever device there is, evaluate, and draw curves.

    Args:
        out: Folder for everything it makes; must be new or empty.
        epochs: Epochs; by default the recipe's, a few minutes on two cores.
    """
    from simsiam.train.demo import run_demo

    console = Console()
    config = configuration.load_config(configuration.recipe_file("demo"))
    if epochs is not None:
        config = dataclasses.replace(config, epochs=epochs)
    summary = run_demo(config, out, console)
    _print_summary(summary, out / "run", console)


def convert(
    source: tyro.conf.Positional[Path],
    out: tyro.conf.Positional[Path],
    max_side: int | None = 500,
    quality: int = 90,
    workers: int | None = None,
    overwrite: bool = False,
    apply_orientation: bool = False,
) -> None:
    """Turn a folder of images into one .beton file (FFCV 1.0), with a manifest beside it.

    Args:
        source: Folder of images; its sub-folders are the classes.
        out: The file to write, ending in .beton.
        max_side: Reduce images whose longer side is above this many pixels; None keeps every size.
        quality: JPEG quality, 1 to 100.
        workers: Processes; by default one for each core this program may use.
        overwrite: Replace an existing file.
        apply_orientation: Rotate images as their EXIF data says; by default pixels are kept as stored.
    """
    from simsiam.pipeline.convert import convert
    from simsiam.pipeline.source import open_source

    _check_ending(out, ".beton")
    console = Console()
    with show_progress(console, "Looking at the images", "files") as progress:
        images = open_source(source, progress=progress)
    with show_progress(console, "Converting", "images") as progress:
        conversion = convert(
            images,
            out,
            max_side=max_side,
            quality=quality,
            workers=workers,
            overwrite=overwrite,
            apply_orientation=apply_orientation,
            progress=progress,
        )
    console.print(
        f"{conversion.count:,} images, {conversion.bytes_written / 2**20:,.1f} MiB, {conversion.seconds:.1f} s"
        f" ({conversion.count / conversion.seconds:,.0f} images/s) → {conversion.path}",
        highlight=False,
        soft_wrap=True,
    )
    for name, reason in conversion.skipped:
        console.print(f"left out: {name}: {reason}", highlight=False, markup=False, soft_wrap=True)


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

    _check_ending(out, ".png")
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


def pretrain(arguments: Sequence[str]) -> int:
    """Read the recipe's name first, since its values are the defaults that the other options start from."""
    if not arguments or arguments[0].startswith("-"):
        if arguments[:1] in (["-h"], ["--help"]):
            return _explain_pretrain()
        raise ValueError(
            "Name a recipe, a YAML file or a run folder first, as in: simsiam pretrain custom --data.path IMAGES."
            f" Recipes: {', '.join(configuration.recipe_names())}."
        )
    recipe, *options = arguments
    print_config = "--print-config" in options
    options = [option for option in options if option != "--print-config"]
    file = configuration.recipe_file(recipe)
    config = configuration.load_config(file)
    if file.name == "config.yaml" and file.parent == Path(recipe).expanduser():
        # A run folder is named to go on with it.
        options = ["--run-dir", str(file.parent), "--resume", "auto", *options]
    config = configuration.parse_options(options, config, prog=f"simsiam pretrain {recipe}")
    if print_config:
        import yaml

        print(yaml.safe_dump(configuration.to_tree(config), sort_keys=False), end="")
        return DONE
    from simsiam.train.pretrain import pretrain

    console = Console()
    default_run_dir = Path("runs") / file.stem
    run_dir = config.run_dir or default_run_dir
    summary = pretrain(config, default_run_dir, console)
    _print_summary(summary, run_dir, console)
    return DONE


def _explain_pretrain() -> int:
    Console().print(
        "usage: simsiam pretrain RECIPE|FILE|RUN [--data.path IMAGES] [options]\n\n"
        f"RECIPE  one of {', '.join(configuration.recipe_names())}\n"
        "FILE    a YAML file with the same keys, such as a run's config.yaml\n"
        "RUN     a run folder: goes on where it stopped\n\n"
        "--print-config prints the resolved configuration and stops. The options, with a recipe's values as their\n"
        "defaults, are listed by: simsiam pretrain RECIPE --help. Without a recipe they are:\n",
        highlight=False,
        markup=False,
    )
    configuration.parse_options(["--help"], configuration.PretrainConfig(), prog="simsiam pretrain RECIPE")
    return DONE


def evaluate_knn(
    checkpoint: tyro.conf.Positional[Path],
    train: Path,
    test: Path,
    k: int = 200,
    temperature: float = 0.1,
    size: int | None = None,
    short_side: int | None = None,
    device: DeviceName = "auto",
    workers: int | None = None,
) -> None:
    """Classify images by their nearest neighbours in the frozen encoder's features.

    Args:
        checkpoint: A checkpoint, or a run folder, whose newest checkpoint is taken.
        train: Labelled images that neighbours are looked for in; folder or .beton.
        test: Labelled images to classify; folder or .beton.
        k: Neighbours that vote.
        temperature: A vote weighs exp(cosine similarity / temperature).
        size: Height and width of the centre crop; by default as in the run.
        short_side: Resize the shorter side to this first; by default as in the run.
        device: auto, cpu or cuda.
        workers: Loader processes; by default one for each core this program may use.
    """
    from simsiam.train.evaluation.knn import evaluate_checkpoint

    console = Console()
    with show_progress(console, "Extracting features", "images") as progress:
        accuracy = evaluate_checkpoint(
            checkpoint,
            train,
            test,
            k=k,
            temperature=temperature,
            size=size,
            short_side=short_side,
            device=device,
            workers=workers,
            progress=progress,
        )
    console.print(f"kNN accuracy: {100 * accuracy:.2f} %  (k {k}, temperature {temperature:g})", highlight=False)


def plot(runs: tyro.conf.Positional[tuple[Path, ...]], out: Path = Path("curves.png")) -> None:
    """Draw the curves of one or several runs as one PNG.

    Args:
        runs: Run folders.
        out: The PNG to write.
    """
    from simsiam.train.plots import plot_runs

    if not runs:
        raise ValueError("Name at least one run folder, as in: simsiam plot runs/demo/run.")
    _check_ending(out, ".png")
    print(plot_runs(runs, out))


def bench_loader(
    source: Path,
    backends: tuple[Backend, ...] = ("torch",),
    batch_size: int = 64,
    size: int = 224,
    workers: int | None = None,
    seconds: float = 10.0,
    device: DeviceName = "auto",
    json: Path | None = None,
) -> None:
    """Measure how fast backends deliver crops, beside the synthetic ceiling.

    Args:
        source: Folder of images, or .beton file.
        backends: What to measure; the synthetic ceiling is always measured, too.
        batch_size: Images in a step.
        size: Height and width of a crop in pixels.
        workers: Loader processes; by default one for each core this program may use.
        seconds: How long each backend is measured, warm-up left out.
        device: Where the crops go: auto, cpu or cuda.
        json: Write environment and results to this file, too.
    """
    from simsiam.train.bench import bench_loaders, print_results, write_results

    results = bench_loaders(
        source,
        backends,
        batch_size=batch_size,
        size=size,
        workers=workers,
        seconds=seconds,
        device=device,
    )
    print_results(results, Console())
    if json:
        write_results(results, json)


def _check_ending(out: Path, ending: str) -> None:
    if out.suffix != ending:
        raise ValueError(f"The file {out} would hold a {ending} under another name; give a name that ends in {ending}.")


def _print_summary(summary: dict[str, Any], run_dir: Path, console: Console) -> None:
    if "knn_random" in summary and "knn" in summary:
        console.print(
            f"kNN accuracy: {100 * summary['knn_random']:.2f} % at random initialisation,"
            f" {100 * summary['knn']:.2f} % trained",
            highlight=False,
        )
    for what, name in (
        ("Curves", "plots/curves.png"),
        ("Summary", "summary.json"),
        ("Checkpoints", "checkpoints"),
    ):
        console.print(f"{what}: {run_dir / name}", highlight=False, markup=False, soft_wrap=True)


class Command(NamedTuple):
    """A command: its line in `simsiam --help`, and what takes its arguments and returns the exit code."""

    summary: str
    run: Callable[[Sequence[str]], int]


def _command(name: str, summary: str, function: Callable[..., int | None]) -> Command:
    def run(arguments: Sequence[str]) -> int:
        return tyro.cli(function, args=list(arguments), prog=f"simsiam {name}") or DONE

    return Command(summary, run)


COMMANDS: dict[str, Command] = {
    "doctor": _command("doctor", "versions, devices and backends; what is missing and how to get it", doctor),
    "demo": _command("demo", "the whole job in a few minutes, on images made for it", demo),
    "convert": _command("convert", "image folder → .beton", convert),
    "preview": _command("preview", "originals, crops and augmented views side by side", preview),
    "pretrain": Command("train an encoder: the main job", pretrain),
    "evaluate knn": _command(
        "evaluate knn", "accuracy of nearest neighbours in a frozen encoder's features", evaluate_knn
    ),
    "bench loader": _command("bench loader", "images per second of the loader backends", bench_loader),
    "plot": _command("plot", "curves of one or several runs as PNG", plot),
}
"""Every command by its one or two words, in the order a newcomer meets them."""
