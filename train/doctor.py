"""Doctor: checks hardware, loader backends and limits of this machine, with advice on what is missing."""

import importlib.util
import io
import tempfile
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

from PIL import Image
from rich.console import Console
from rich.markup import escape

from simsiam.pipeline.augmentation import Augmentation
from simsiam.pipeline.crops import BACKENDS, Backend
from simsiam.pipeline.errors import RunError
from simsiam.pipeline.loaders.open_loader import open_loader
from simsiam.pipeline.worker_count import available_cores
from simsiam.train.config import CheckpointConfig
from simsiam.train.environment import describe_environment
from simsiam.train.machine import (
    Finding,
    describe_cores,
    find_caches,
    find_compiler,
    find_disk,
    find_open_files,
    find_shared_memory,
)

# A usual run: a ResNet-50, whose SimSiam has 38.2 million weights, each with its momentum in float32.
_IMAGES, _SIZE, _CHECKPOINT_BYTES = 256, 224, 38_200_000 * 8
_HOW_TO_GET = {
    "ffcv": "in a clone of the project, as root: make install",
    "dali": "pip install nvidia-dali-cuda130 (with an older driver: nvidia-dali-cuda120)",
}
_SYMBOLS = {"ok": "[green]ok     [/]", "missing": "[yellow]missing[/]", "problem": "[red]problem[/]"}


def examine() -> list[Finding]:
    """Return every finding: what is `missing` is optional, a `problem` will hurt a run."""
    environment = describe_environment()
    return [
        *_software(environment),
        *_devices(environment),
        *_backends(environment),
        *_machine(environment),
    ]


def report(console: Console) -> bool:
    """Print the findings and return whether there is no problem among them."""
    findings = examine()
    for finding in findings:
        console.print(f"{_SYMBOLS[finding.state]} {escape(finding.what)}", highlight=False, soft_wrap=True)
        if finding.advice:
            console.print(f"        → {finding.advice}", highlight=False, markup=False, soft_wrap=True)
    return not any(finding.state == "problem" for finding in findings)


def _software(environment: dict[str, Any]) -> Iterator[Finding]:
    packages = ", ".join(f"{name} {version}" for name, version in environment["packages"].items())
    yield Finding("ok", f"Python {environment['python']}; {packages}")


def _devices(environment: dict[str, Any]) -> Iterator[Finding]:
    import torch

    yield describe_cores(environment["cpu"])
    for gpu in environment["gpus"]:
        yield Finding("ok", f"GPU: {gpu['name']}, {gpu['memory_gib']} GiB, CUDA {environment['cuda']}")
    if not environment["gpus"]:
        advice = "PyTorch is built without CUDA: pip install torch from PyPI has it"
        if torch.version.cuda:
            advice = "training runs on the CPU; in a container, start it with --gpus all"
        yield Finding("missing", "GPU: none", advice)


def _backends(environment: dict[str, Any]) -> Iterator[Finding]:
    device = "cuda" if environment["gpus"] else "cpu"
    for backend in BACKENDS:
        if backend != "auto":
            yield _tried(backend, device)
    apex = importlib.util.find_spec("apex")
    if apex and importlib.util.find_spec("apex.optimizers") is None:
        yield Finding("problem", "apex is PyPI's package of that name, not NVIDIA's", "pip uninstall apex")


def _tried(backend: Backend, device: str) -> Finding:
    what, advice = f"Loader backend {backend}", _HOW_TO_GET.get(backend, "reinstall the project")
    try:
        take_one_batch(backend, device)
    except ModuleNotFoundError as error:
        return Finding("missing", f"{what}: there is no module {error.name}", advice)
    except Exception as error:  # a broken extension raises ImportError, OSError, AttributeError, …
        return Finding("problem", f"{what} fails with: {type(error).__name__}: {error}", advice)
    return Finding("ok", f"{what} gave crops on {device}")


def take_one_batch(backend: Backend, device: str) -> None:
    """Let a backend decode and crop two images of a `.beton`; errors of any kind are passed on."""
    import torch

    from simsiam.pipeline.beton.writer import BetonWriter
    from simsiam.pipeline.plan import CropPlan
    from simsiam.pipeline.sources.open_source import open_source

    jpeg = io.BytesIO()
    Image.new("RGB", (32, 24), "teal").save(jpeg, "JPEG")
    with tempfile.TemporaryDirectory() as folder:
        with BetonWriter(Path(folder) / "two.beton", capacity=2) as writer:
            for _ in range(2):
                writer.append(jpeg.getvalue(), height=24, width=32, label=-1)
            writer.finish()
        plan = CropPlan(open_source(writer.path), Augmentation(), crop_size=16, batch_size=2, seed=0)
        with closing(open_loader(backend, plan, torch.device(device), workers=1)) as loader:
            crops = next(loader.epoch(0))
            if crops.pixels.shape != (2, 2, 16, 16, 3):
                raise RunError(f"its crops are of shape {tuple(crops.pixels.shape)}")


def _machine(environment: dict[str, Any]) -> Iterator[Finding]:
    device, workers = "cuda" if environment["gpus"] else "cpu", available_cores()
    yield find_compiler(device)
    if (memory := find_shared_memory(_IMAGES, _SIZE, workers)) is not None:
        yield memory
    yield find_open_files(workers)
    yield from find_caches(device)
    yield find_disk(Path("runs"), _CHECKPOINT_BYTES, CheckpointConfig().keep)
