import itertools
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from rich.console import Console

from simsiam.pipeline.crops import Crops
from simsiam.pipeline.loaders.resident_loader import ResidentLoader
from simsiam.train import cli, learner, stall
from simsiam.train import pretrain as job
from simsiam.train.config import PretrainConfig, to_tree
from simsiam.train.interruption import Interrupted
from simsiam.train.pretrain import pretrain
from simsiam.train.run.checkpoint import list_checkpoints, load_checkpoint
from simsiam.train.run.metrics import read_metrics, summarize

TinyConfig = Callable[..., PretrainConfig]

# What a resumed run repeats bit for bit; the rest of a record is speed.
REPEATED = {
    *("step", "epoch", "loss", "output_std", "learning_rate", "predictor_learning_rate", "knn"),
    *("skipped_steps", "collapsed_steps"),
}


def train(config: PretrainConfig) -> dict[str, Any]:
    assert config.run_dir is not None
    return pretrain(config, config.run_dir, Console(file=StringIO()))


def curve(run: Path) -> list[dict[str, Any]]:
    return [{key: value for key, value in record.items() if key in REPEATED} for record in read_metrics(run)]


def final_state(run: Path) -> dict[str, Any]:
    return load_checkpoint(list_checkpoints(run / "checkpoints")[0])


def assert_same_result(run: Path, reference: Path) -> None:
    ours, theirs = final_state(run), final_state(reference)
    assert ours["step"] == theirs["step"] == 12
    for name, value in theirs["model"].items():
        assert torch.equal(ours["model"][name], value), name
    momenta = zip(ours["optimizer"]["state"].values(), theirs["optimizer"]["state"].values(), strict=True)
    assert all(torch.equal(one["momentum_buffer"], other["momentum_buffer"]) for one, other in momenta)
    # The values went through JSON, which keeps every bit of a float.
    assert curve(run) == curve(reference)


def settings_file(folder: Path, config: PretrainConfig) -> Path:
    file = folder / "settings.yaml"
    file.write_text(yaml.safe_dump(to_tree(config)))
    return file


def stop_after(step: int, number: signal.Signals, monkeypatch: pytest.MonkeyPatch) -> None:
    """Send this process a signal during step `step`."""
    train_step, steps = learner.train_step, iter(range(1, 99))

    def stopping_step(*arguments):
        output = train_step(*arguments)
        if next(steps) == step:
            os.kill(os.getpid(), number)
            # A second signal of either kind would act at once.
            assert {signal.getsignal(either) for either in (signal.SIGINT, signal.SIGTERM)} == {signal.SIG_DFL}
        return output

    monkeypatch.setattr(learner, "train_step", stopping_step)


@pytest.mark.parametrize(
    ("number", "step", "code"),
    [
        pytest.param(signal.SIGINT, 3, 130, id="SIGINT in mid-epoch"),
        pytest.param(signal.SIGTERM, 6, 0, id="SIGTERM at the end of an epoch"),
        pytest.param(signal.SIGTERM, 12, 0, id="SIGTERM in the last step"),
    ],
)
def test_run_stopped_by_a_signal_goes_on_bit_for_bit(
    number: signal.Signals,
    step: int,
    code: int,
    tiny_config: TinyConfig,
    run_dir: Path,
    tiny_run: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    file = settings_file(run_dir.parent, tiny_config(run_dir))
    handler = signal.getsignal(number)
    with monkeypatch.context() as patch:
        stop_after(step, number, patch)
        assert cli.run(["pretrain", str(file)]) == code
    assert signal.getsignal(number) is handler
    assert (
        capsys.readouterr().err
        == f"simsiam: stopped by {number.name} and saved; resume with: simsiam pretrain {run_dir}\n"
    )
    assert final_state(run_dir)["step"] == step
    assert json.loads((run_dir / "summary.json").read_text()) == summarize(read_metrics(run_dir))
    assert (run_dir / "report.html").read_text().count("data:image/png;base64,") == 3
    assert cli.run(["pretrain", str(run_dir)]) == 0
    assert f"resumed from step-{step:09d}.pt" in capsys.readouterr().out
    assert_same_result(run_dir, tiny_run)


def test_signal_is_obeyed_while_the_loader_delivers_nothing(
    tiny_config: TinyConfig, run_dir: Path, tiny_run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    epoch = ResidentLoader.epoch

    def stuck_after_three_steps(self: ResidentLoader, number: int, first_step: int = 0) -> Iterator[Crops]:
        yield from itertools.islice(epoch(self, number, first_step), 3)
        os.kill(os.getpid(), signal.SIGTERM)
        threading.Event().wait()

    with monkeypatch.context() as patch:
        patch.setattr(stall, "OBEYED_AFTER_SECONDS", 0.05)
        patch.setattr(ResidentLoader, "epoch", stuck_after_three_steps)
        with pytest.raises(Interrupted, match="SIGTERM and saved"):
            train(tiny_config(run_dir))
    assert final_state(run_dir)["step"] == 3
    train(tiny_config(run_dir, "--resume=auto"))
    assert_same_result(run_dir, tiny_run)


def test_sigterm_before_the_first_step_is_no_failure(
    tiny_config: TinyConfig, run_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    monkeypatch.setattr(job, "open_source", lambda *_, **__: os.kill(os.getpid(), signal.SIGTERM))
    settings = tmp_path / "settings.yaml"
    settings.write_text(yaml.safe_dump(to_tree(tiny_config(run_dir))))
    before = signal.getsignal(signal.SIGTERM)
    assert cli.run(["pretrain", str(settings)]) == 0
    assert capsys.readouterr().err == "simsiam: stopped by SIGTERM with no step lost\n"
    assert signal.getsignal(signal.SIGTERM) is before


KILLED = """
import os, signal, sys
import torch
from simsiam.train import cli, learner

def kill():
    os.kill(os.getpid(), signal.SIGKILL)

train_step, save, steps = learner.train_step, torch.save, iter(range(1, 99))

def step(*arguments):
    if next(steps) == 11 and sys.argv[2] == "in a step":
        kill()
    return train_step(*arguments)

def half(state, file):
    if state["step"] == 8 and sys.argv[2] == "while saving":
        file.write(b"half a checkpoint")
        file.flush()
        kill()
    save(state, file)

learner.train_step, torch.save = step, half
cli.run(["pretrain", sys.argv[1]])
"""


@pytest.fixture(scope="module")
def undisturbed_run(tiny_config: TinyConfig, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run in a process of its own: sums of floats may change with the libraries a process has loaded."""
    run_dir = tmp_path_factory.mktemp("undisturbed") / "run"
    run_alone(settings_file(run_dir.parent, tiny_config(run_dir)))
    return run_dir


def run_alone(file: Path) -> None:
    subprocess.run([sys.executable, "-m", "simsiam.train.cli", "pretrain", file], check=True, timeout=100)


@pytest.mark.parametrize(
    ("moment", "left", "saved"), [("in a step", [], 8), ("while saving", ["step-000000008.pt"], 6)]
)
def test_killed_run_goes_on_bit_for_bit(
    moment: str, left: list[str], saved: int, tiny_config: TinyConfig, run_dir: Path, undisturbed_run: Path
) -> None:
    config = tiny_config(run_dir, "--checkpoint.every-steps=4", "--resume=auto")
    file = settings_file(run_dir.parent, config)
    killed = subprocess.run([sys.executable, "-c", KILLED, file, moment], capture_output=True, text=True, timeout=100)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert final_state(run_dir)["step"] == saved
    # The temporary name has the number of the process in it.
    assert [path.name.rsplit(".", 2)[0] for path in (run_dir / "checkpoints").glob("*.part")] == left
    run_alone(file)
    assert_same_result(run_dir, undisturbed_run)
    assert not list(run_dir.rglob("*.part"))


# One process imports everything and then forks the lives of the run, each killed before or after one of the calls that
# a run is made of: the how manieth is given.
LIVES = """
import os, pathlib, signal, sys
import torch
from simsiam.train import cli, learner
from simsiam.train.run import metrics

def count(owner, name):
    original = getattr(owner, name)

    def call(*arguments, **named):
        pass_by("before", name)
        result = original(*arguments, **named)
        pass_by("after", name)
        return result

    setattr(owner, name, call)

def pass_by(when, name):
    global ahead
    ahead -= 1
    if ahead == 0:
        print("death", when, name, flush=True)
        os.kill(os.getpid(), signal.SIGKILL)

count(learner, "train_step")
count(torch, "save")
count(metrics.MetricsLog, "write")
for name in ("replace", "unlink"):
    count(pathlib.Path, name)
for ahead in map(int, sys.argv[2:]):
    print("born", flush=True)
    child = os.fork()
    if child == 0:
        os._exit(cli.run(["pretrain", sys.argv[1]]))
    os.waitpid(child, 0)
"""


def test_run_killed_at_random_moments_goes_on_bit_for_bit(
    tiny_config: TinyConfig, run_dir: Path, undisturbed_run: Path
) -> None:
    config = tiny_config(run_dir, "--checkpoint.every-steps=3", "--resume=auto", "--checkpoint.keep=2")
    file = settings_file(run_dir.parent, config)
    rng = np.random.default_rng(0)
    # After the fifth step there is a checkpoint. A later life has at least 20 calls, begun after step 9.
    moments = [*rng.integers(24, 40, 1), *rng.integers(1, 20, 3), 0]
    lives = subprocess.run(
        [sys.executable, "-c", LIVES, file, *map(str, moments)], capture_output=True, text=True, timeout=100, check=True
    )
    _, first, *later = lives.stdout.split("born\n")
    assert ["\ndeath " in f"\n{life}" for life in (first, *later)] == [True] * 4 + [False], lives.stdout
    # Whoever is killed very early has not got so far as to tell.
    assert "0 done of 12" in first and not any("0 done of 12" in life for life in later), lives.stdout
    assert "resumed from step-" in later[-1]
    assert_same_result(run_dir, undisturbed_run)
    assert not list(run_dir.rglob("*.part"))


def test_a_disk_that_is_full_for_a_while_does_not_stop_the_run(
    tiny_config: TinyConfig, run_dir: Path, tiny_run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save = torch.save

    def save_but_step_6(state, file) -> None:
        if state["step"] == 6:
            file.write(b"half a checkpoint")
            raise OSError(28, "No space left on device")
        save(state, file)

    monkeypatch.setattr(torch, "save", save_but_step_6)
    with pytest.warns(UserWarning, match=r"step 6 could not be written: .*No space left on device"):
        train(tiny_config(run_dir))
    assert_same_result(run_dir, tiny_run)
    assert [path.name for path in (run_dir / "checkpoints").iterdir()] == ["step-000000012.pt"]


def test_run_goes_on_from_the_newest_whole_checkpoint(tiny_config: TinyConfig, run_dir: Path, tiny_run: Path) -> None:
    options = "--checkpoint.every-steps=4", "--resume=auto"
    train(tiny_config(run_dir, *options, "--max-steps=9"))
    newest, before, *_ = list_checkpoints(run_dir / "checkpoints")
    assert (newest.name, before.name) == ("step-000000009.pt", "step-000000008.pt")
    os.truncate(newest, newest.stat().st_size // 2)
    with pytest.warns(UserWarning, match=r"step-000000009\.pt is truncated, .* Trying the one before"):
        train(tiny_config(run_dir, *options))
    # The line that step 9 wrote as the last one is gone, too.
    assert_same_result(run_dir, tiny_run)


def test_finished_run_stays_as_it_is(tiny_config: TinyConfig, run_dir: Path) -> None:
    config = tiny_config(run_dir, "--max-steps=1", "--resume=auto")
    first = train(config)
    before = (run_dir / "metrics.jsonl").read_bytes(), final_state(run_dir)["model"]
    assert train(config) == first
    assert (run_dir / "metrics.jsonl").read_bytes() == before[0]
    after = final_state(run_dir)["model"]
    assert all(torch.equal(after[name], value) for name, value in before[1].items())
