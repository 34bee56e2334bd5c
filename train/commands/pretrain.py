"""`simsiam pretrain`: trains an encoder by a recipe, a YAML file or a run folder, and options."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from simsiam.pipeline.errors import DeadLoaderWorkerError, UsageError
from simsiam.pipeline.paths import expand_home
from simsiam.train.config import PretrainConfig, to_tree
from simsiam.train.recipe import load_config, recipe_file, recipe_names
from simsiam.train.terminal.advice import broken_image_advice, dead_worker_advice
from simsiam.train.terminal.arguments import parse
from simsiam.train.terminal.exit_codes import DONE
from simsiam.train.terminal.run_summary import print_summary


@dataclass(frozen=True)
class PretrainOptions(PretrainConfig):
    """Pretrain an encoder with SimSiam (arXiv 2011.10566)."""

    print_config: bool = False
    """Print the resolved configuration as YAML and stop."""


def run(arguments: Sequence[str], prog: str) -> int:
    """Train; the recipe comes first, since its values are the defaults of the options."""
    if not arguments or arguments[0].startswith("-"):
        if arguments[:1] in (["-h"], ["--help"]):
            return _explain(prog)
        raise UsageError(
            "Name a recipe, a YAML file or a run folder first, as in: simsiam pretrain custom --data.path IMAGES."
            f" Recipes: {', '.join(recipe_names())}."
        )
    recipe, *options = arguments
    file = recipe_file(recipe)
    config = load_config(file)
    if file.name == "config.yaml" and file.parent == expand_home(recipe):
        # Naming a run folder resumes the run.
        options = [f"--run-dir={file.parent}", "--resume=auto", *options]
    config, print_config = _parse(options, config, f"{prog} {recipe}")
    if print_config:
        import yaml

        print(yaml.safe_dump(to_tree(config), sort_keys=False), end="")
        return DONE
    from simsiam.train.launcher import is_first_process
    from simsiam.train.pretrain import pretrain

    console = Console(quiet=not is_first_process())
    default_run_dir = Path("runs") / file.stem
    run_dir = config.run_dir or default_run_dir
    with (
        broken_image_advice(config.data.path, config.data.on_broken, "--data.on-broken replace --resume auto"),
        dead_worker_advice(DeadLoaderWorkerError, "fewer --data.workers or a smaller --batch-size"),
    ):
        summary = pretrain(config, default_run_dir, console)
    print_summary(summary, run_dir, console)
    return DONE


def _parse(options: Sequence[str], config: PretrainConfig, prog: str) -> tuple[PretrainConfig, bool]:
    """Apply the options to a configuration; the second value says whether it is only to be printed."""
    settings = dict(vars(parse(PretrainOptions(**vars(config)), options, prog)))
    print_config = settings.pop("print_config")
    return PretrainConfig(**settings), print_config


def _explain(prog: str) -> int:
    Console().print(
        f"usage: {prog} RECIPE|FILE|RUN [--data.path IMAGES] [options]\n\n"
        f"RECIPE  one of {', '.join(recipe_names())}\n"
        "FILE    a YAML file with the same keys, such as a run's config.yaml\n"
        "RUN     a run folder: resumes it where it stopped\n\n"
        "simsiam pretrain RECIPE --help lists the options with the recipe's values as defaults. Without a recipe:\n",
        highlight=False,
        markup=False,
    )
    _parse(["--help"], PretrainConfig(), prog=f"{prog} RECIPE")
    return DONE
