"""Training under torchrun: it is what one process does alone, also when a process dies, errs or is told to stop."""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from simsiam.train.config import PretrainConfig, to_tree
from simsiam.train.run.checkpoint import list_checkpoints, load_checkpoint
from simsiam.train.run.metrics import read_metrics

TinyConfig = Callable[..., PretrainConfig]

# `simsiam`, but that `{fault}` may do harm to one process before a step, and that the network may be in float64.
PROGRAM = """
import os, sys, time
from simsiam.train import cli, learner
rank, restarts = int(os.environ.get("RANK", 0)), int(os.environ.get("TORCHELASTIC_RESTART_COUNT", 0))
step, taken = learner.train_step, 0
def wait_for(checkpoint):
    while not os.path.exists(os.path.join(sys.argv[sys.argv.index("--run-dir") + 1], "checkpoints", checkpoint)):
        time.sleep(0.05)
def counted_step(*arguments):
    global taken
    taken += 1
    {fault}
    return step(*arguments)
learner.train_step = counted_step
def build_in_float64(config, build=learner.build_model):
    model = build(config).double()
    model.encoder.register_forward_pre_hook(lambda encoder, images: (images[0].double(),))
    return model
if {in_float64}:
    learner.build_model = build_in_float64
sys.exit(cli.run(sys.argv[1:]))
"""


class Launcher:
    """Starts `simsiam pretrain` in one process, or in several under torchrun."""

    def __init__(self, folder: Path, config: TinyConfig) -> None:
        self._folder, self._config = folder, config

    def command(
        self, run_dir: Path, options: list[str], fault: str, processes: int, restarts: int, in_float64: bool
    ) -> list[str]:
        settings, program = self._folder / "settings.yaml", self._folder / "program.py"
        settings.write_text(yaml.safe_dump(to_tree(self._config(run_dir, *options))))
        program.write_text(PROGRAM.format(fault=fault, in_float64=in_float64))
        job = [str(program), "pretrain", str(settings), "--run-dir", str(run_dir)]
        if processes == 1:
            return [sys.executable, *job]
        torchrun = [sys.executable, "-m", "torch.distributed.run", f"--nproc-per-node={processes}"]
        place = ["--rdzv-backend=c10d", "--rdzv-endpoint=localhost:0", f"--max-restarts={restarts}"]
        return [*torchrun, *place, *job]

    def start(
        self,
        run_dir: Path,
        *options: str,
        fault: str = "pass",
        processes: int = 2,
        restarts: int = 0,
        in_float64: bool = False,
    ) -> subprocess.Popen:
        command = self.command(run_dir, list(options), fault, processes, restarts, in_float64)
        environment = os.environ | {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
        output = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
        return subprocess.Popen(command, env=environment, start_new_session=True, **output)

    def run(self, run_dir: Path, *options: str, code: int = 0, **how: Any) -> str:
        process = self.start(run_dir, *options, **how)
        try:
            output, _ = process.communicate(timeout=180)
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
        assert process.returncode == code, output
        return output


SMALL = (  # steps of 32 of 48 images
    *("--batch-size=32", "--knn.every-epochs=0", "--log.every-steps=1"),
    *("--optimizer.base-lr=0.04", "--epochs=9", "--max-steps=5", "--checkpoint.every-epochs=3"),
)


@pytest.fixture(scope="module")
def launcher(tiny_config: TinyConfig, tmp_path_factory: pytest.TempPathFactory) -> Launcher:
    return Launcher(tmp_path_factory.mktemp("launcher"), tiny_config)


@pytest.fixture(scope="module")
def one_process(launcher: Launcher, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of five steps by one process, in float64, with a checkpoint after the third; to be read only."""
    run = tmp_path_factory.mktemp("one") / "run"
    launcher.run(run, *SMALL, processes=1, in_float64=True)
    return run


def final_state(run: Path) -> dict[str, Any]:
    return load_checkpoint(list_checkpoints(run / "checkpoints")[0])


def assert_same_but_for_rounding(run: Path, reference: Path) -> None:
    """Compare runs in float64, where no rounding decides whether a ReLU passes its input.

    What may differ is the loss, always in float32, and so the gradients, by 1e-7.
    """
    ours, theirs = read_metrics(run), read_metrics(reference)
    assert [record["step"] for record in ours] == [record["step"] for record in theirs] == [0, 1, 2, 3, 4, 5, 5]
    for one, other in zip(ours, theirs, strict=True):
        measured = "knn" if "knn" in other else "loss"
        assert one[measured] == pytest.approx(other[measured], abs=1e-6)
    state, expected = final_state(run), final_state(reference)
    for name, value in expected["model"].items():  # running statistics are among them
        assert value.dtype in (torch.float64, torch.int64)
        torch.testing.assert_close(state["model"][name], value, rtol=1e-6, atol=1e-9, msg=name)
    for index, value in expected["optimizer"]["state"].items():
        momentum = value["momentum_buffer"]
        off = state["optimizer"]["state"][index]["momentum_buffer"] - momentum
        assert off.norm() < 1e-6 * momentum.norm(), f"parameter {index}"


@pytest.mark.timeout(300)
def test_two_processes_train_as_one_does_on_the_whole_batch(
    launcher: Launcher, one_process: Path, run_dir: Path
) -> None:
    output = launcher.run(run_dir, *SMALL, in_float64=True)
    assert output.count("Learning rate: 0.005 = 0.04 × 32 / 256") == 1, "the first process alone writes"
    assert_same_but_for_rounding(run_dir, one_process)


@pytest.mark.timeout(300)
def test_two_processes_resume_the_run_of_one(launcher: Launcher, one_process: Path, run_dir: Path) -> None:
    shutil.copytree(one_process, run_dir)
    for file in list_checkpoints(run_dir / "checkpoints"):
        if file.name != "step-000000003.pt":
            file.unlink()
    assert "resumed from step-000000003.pt" in launcher.run(run_dir, *SMALL, "--resume=auto", in_float64=True)
    assert_same_but_for_rounding(run_dir, one_process)


@pytest.mark.timeout(300)
def test_after_a_process_was_killed_a_restart_ends_with_the_same_bits(launcher: Launcher, run_dir: Path) -> None:
    """Torchrun keeps its store over a restart; were the addresses of the dead found there, this would fail at times.

    Recomputed activations are asked for besides: they mustn't change a bit, either.
    """
    fault = "if rank == 1 and taken == 5 and restarts == 0: wait_for('step-000000003.pt'); os.kill(os.getpid(), 9)"
    killed, whole = run_dir / "killed", run_dir / "whole"
    launcher.run(whole, *SMALL)
    output = launcher.run(killed, *SMALL, "--recompute", fault=fault, restarts=1)
    assert "resumed from step-000000003.pt" in output
    ours, theirs = final_state(killed), final_state(whole)
    assert ours["step"] == theirs["step"] == 5
    assert all(torch.equal(ours["model"][name], value) for name, value in theirs["model"].items())
    losses = [[record.get("loss") for record in read_metrics(run)] for run in (killed, whole)]
    assert losses[0] == losses[1]


@pytest.mark.timeout(300)
def test_an_error_in_one_process_is_told_and_ends_the_job(launcher: Launcher, run_dir: Path) -> None:
    fault = "if rank == 1 and taken == 2: raise OSError('the disk of process 1 is gone')"
    started = time.monotonic()
    output = launcher.run(run_dir, *SMALL, fault=fault, code=1)
    assert time.monotonic() - started < 60
    assert "simsiam: the disk of process 1 is gone" in output


@pytest.mark.timeout(300)
def test_what_one_process_alone_has_heard_all_obey_in_the_same_step(launcher: Launcher, run_dir: Path) -> None:
    """A signal that only the second one got; and the clock, which only the first one looks at."""
    fault = "if rank == 1 and taken == 4: os.kill(os.getpid(), 15)"
    options = *SMALL, "--max-steps=5", "--checkpoint.every-epochs=9", "--checkpoint.every-minutes=0.00001"
    output = launcher.run(run_dir, *options, fault=fault)
    assert output.count("stopped by SIGTERM and saved") == 1, output
    assert [path.name for path in list_checkpoints(run_dir / "checkpoints")] == [
        f"step-00000000{step}.pt" for step in (5, 4, 3)
    ]


@pytest.mark.timeout(300)
def test_a_run_that_its_health_stops_is_not_started_again(launcher: Launcher, run_dir: Path) -> None:
    # A limit that a training is soon below.
    options = *SMALL, "--health.on-collapse=stop", "--health.collapse-loss=0", "--health.collapse-steps=2"
    output = launcher.run(run_dir, *options, "--health.collapse-std=1", code=1, restarts=2)
    assert output.count("The output has collapsed: for 2 steps") == 1, output
    assert output.count("was stopped by its health checks") == 2
    assert 2 <= final_state(run_dir)["step"] < 5


@pytest.mark.timeout(300)
def test_a_folder_of_another_run_is_refused_by_the_first_process_at_every_start(
    launcher: Launcher, run_dir: Path
) -> None:
    (run_dir / "checkpoints").mkdir(parents=True)
    (run_dir / "metrics.jsonl").write_text('{"step": 1, "loss": 0}\n')
    output = launcher.run(run_dir, *SMALL, code=1, restarts=1)
    # Once a start: that torchrun tries again doesn't make the folder this job's.
    assert output.count("is already in use") == 2


@pytest.mark.timeout(300)
def test_sigterm_to_torchrun_saves_the_same_step_of_all_processes(launcher: Launcher, run_dir: Path) -> None:
    # Slow steps, and loader processes, which torchrun sends the signal as well.
    options = *SMALL, "--data.workers=1", "--data.backend=torch", "--max-steps=400", "--epochs=400"
    process = launcher.start(run_dir, *options, fault="time.sleep(0.1 * rank)")
    while not any(record["step"] >= 2 for record in read_metrics(run_dir)):
        time.sleep(0.1)
        assert process.poll() is None, process.communicate()[0]
    process.send_signal(signal.SIGTERM)
    output, _ = process.communicate(timeout=120)
    assert output.count("stopped by SIGTERM and saved") == 1, output
    assert final_state(run_dir)["step"] == read_metrics(run_dir)[-1]["step"]
