"""Run folder: creates or reopens the folder of a run, locks it, and finds the checkpoint to resume from."""

import dataclasses
import fcntl
import json
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple, TextIO

import yaml

from simsiam.pipeline.atomic_write import write_text_atomically
from simsiam.pipeline.errors import UsageError
from simsiam.pipeline.paths import expand_home
from simsiam.pipeline.source import Source
from simsiam.pipeline.sources.source_hash import hash_images
from simsiam.train.config import PretrainConfig, identity_differences, to_tree
from simsiam.train.environment import describe_environment
from simsiam.train.run.checkpoint import list_checkpoints, newest_checkpoint, open_checkpoint, set_aside
from simsiam.train.run.metrics import read_metrics


class RunFolder(NamedTuple):
    """An opened run folder."""

    path: Path
    state: dict[str, Any] | None
    """The checkpoint to resume from; None for a new run."""
    resumed_from: Path | None
    images: dict[str, Any]
    """The images of the run; see `describe_images`."""

    @property
    def checkpoints(self) -> Path:
        """The folder of the run's checkpoints."""
        return self.path / "checkpoints"


def describe_images(source: Source) -> dict[str, Any]:
    """Return the number and the hash of the images, which a checkpoint stores."""
    return {"count": len(source), "fingerprint": hash_images(source)}


@contextmanager
def open_run_folder(
    config: PretrainConfig, default: Path, images: dict[str, Any], job: str | None = None
) -> Iterator[RunFolder]:
    """Create or reopen the run folder, lock it, and write `config.yaml` and `environment.json` into it.

    `images` describes the training images, see `describe_images`. If torchrun restarts the same `job`, the run resumes
    whatever `config.resume` says, unless `stop_job` was called. If the run resumes from another checkpoint than the
    newest, later ones are set aside, with a warning.

    Raises UsageError, and writes nothing, when another process trains in the folder, when it holds another run or other
    files, when it is among the images, or when the checkpoint has other settings or images.
    """
    path = expand_home(config.run_dir or default)
    _refuse_foreign_folder(path, config)
    # Locked before the checkpoints are listed, or another process might write one more.
    lock = _lock(path) if (path / _LOCK).exists() else None
    try:
        state, resumed_from = _find_state(config, path, images, started_again=_was_opened_by(job, path))
        try:
            path.mkdir(parents=True, exist_ok=True)
            lock = lock or _lock(path)
            for folder in (path, path / "plots", path / "checkpoints"):
                for half_written in folder.glob("*.part"):  # of a process that was killed
                    half_written.unlink()
            repeatable = dataclasses.replace(config, run_dir=None, resume="never")
            write_text_atomically(path / "config.yaml", yaml.safe_dump(to_tree(repeatable), sort_keys=False))
            write_text_atomically(path / "environment.json", json.dumps(describe_environment(), indent=2) + "\n")
            if job is not None:
                write_text_atomically(path / _JOB, job)
            left = set_aside(path / "checkpoints", after_step=state["step"]) if state else None
        except OSError as error:
            raise UsageError(
                f"The run folder {path} can't be written: {error.strerror}. Give another one.", argument="run_dir"
            ) from None
        if left:
            warnings.warn(f"The checkpoints of later steps are now in {left}; delete them when you like.", stacklevel=3)
        yield RunFolder(path, state, resumed_from, images)
    finally:
        if lock:
            lock.close()


_LOCK = ".lock"
_JOB = ".job"


_STOPPED = " stopped"


def stop_job(folder: RunFolder) -> None:
    """Mark the job as stopped, so that its restarts by torchrun don't resume the run."""
    if (folder.path / _JOB).is_file():
        write_text_atomically(folder.path / _JOB, (folder.path / _JOB).read_text() + _STOPPED)


def _was_opened_by(job: str | None, path: Path) -> bool:
    if job is None or not (path / _JOB).is_file():
        return False
    opened_by = (path / _JOB).read_text()
    if opened_by == job + _STOPPED:
        raise UsageError(f"The run in {path} was stopped by its health checks, so it is not resumed.")
    return opened_by == job


def _refuse_foreign_folder(path: Path, config: PretrainConfig) -> None:
    """Refuse a folder with files that no run wrote, or inside the images, where its pictures would become images."""
    for images in (config.data.path, config.knn.train, config.knn.test):
        if images is not None and images.is_dir() and path.resolve().is_relative_to(images.resolve()):
            raise UsageError(
                f"The run folder {path} is in {images}, among the images; give another one.", argument="run_dir"
            )
    of_a_run = any((path / name).exists() for name in (_LOCK, "config.yaml", "metrics.jsonl", "checkpoints"))
    if path.is_dir() and not of_a_run and any(path.iterdir()):
        raise UsageError(
            f"The folder {path} is not empty, and what it holds is no run; give another one.", argument="run_dir"
        )


def _lock(path: Path) -> TextIO:
    """Lock a run folder until the file is closed or this process ends, however it ends."""
    file = (path / _LOCK).open("a")
    try:
        # lockf, not flock: forked loader processes don't inherit it, and it works on NFS.
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):  # POSIX allows either
        file.close()
        raise UsageError(
            f"Another process is training in {path}: wait for it to end, or give another folder.", argument="run_dir"
        ) from None
    except OSError as error:
        warnings.warn(
            f"{path} can't be locked ({error.strerror}); make sure that no other process trains in it.", stacklevel=2
        )
    return file


def _find_state(
    config: PretrainConfig, path: Path, images: dict[str, Any], started_again: bool
) -> tuple[dict[str, Any] | None, Path | None]:
    """Return the checkpoint to resume from, and its path."""
    checkpoints = list_checkpoints(path / "checkpoints")
    path_in_use = bool(checkpoints or read_metrics(path)) and not started_again
    state, resumed_from = None, None
    # A run started from a checkpoint elsewhere restarts from that one until it has its own.
    if config.resume == "auto" or (started_again and (checkpoints or config.resume == "never")):
        resumed_from, state = newest_checkpoint(path / "checkpoints") or (None, None)
    elif config.resume == "never":
        if path_in_use:
            raise UsageError(
                f"The run folder {path} is already in use: resume its run, or give another folder.",
                argument="resume=auto",
            )
    else:
        resumed_from, state = open_checkpoint(expand_home(config.resume))
        if path_in_use and path.resolve() not in resumed_from.resolve().parents:
            raise UsageError(
                f"The run folder {path} is already in use by another run than {resumed_from}; give another folder.",
                argument="run_dir",
            )
    if state is not None:
        assert resumed_from is not None
        run = resumed_from.parent.parent  # not `path`, which may be a new folder for the rest of that run
        anew = f"to start a new run from its weights, give another folder and init_from {run}"
        differences = identity_differences(state["config"], to_tree(config))
        if differences:
            raise UsageError(
                f"The run in {run} was started with other settings ({'; '.join(differences)}):"
                f" give the same ones to resume it; {anew}.",
                argument=f"init_from={run}",
            )
        _refuse_other_images(state["images"], images, config, run, anew)
    return state, resumed_from


def _refuse_other_images(
    was: dict[str, Any], now: dict[str, Any], config: PretrainConfig, run: Path, anew: str
) -> None:
    if was == now:
        return
    difference = f"{config.data.path} has {now['count']:,}"
    if was["count"] == now["count"]:
        difference = f"{config.data.path} has as many, but with other names, classes or sizes"
    raise UsageError(
        f"The run in {run} was started on {was['count']:,} images, and {difference}:"
        f" give the same images to resume it; {anew}.",
        argument=f"init_from={run}",
    )
