import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

from simsiam.pipeline.draw import Augmentation
from simsiam.pipeline.plan import CropPlan
from simsiam.pipeline.source import open_source
from simsiam.train.checkpoint import list_checkpoints, load_checkpoint
from simsiam.train.config import PretrainConfig, to_tree
from simsiam.train.distributed import World, join_world
from simsiam.train.metrics import read_metrics

TinyConfig = Callable[..., PretrainConfig]

needs_time = pytest.mark.skipif(
    "SIMSIAM_TEST_TORCHRUN" not in os.environ, reason="starts torchrun several times: set SIMSIAM_TEST_TORCHRUN=1"
)

# `simsiam`, but that `{fault}` may do harm to one process before a step.
PROGRAM = """
import os, sys, time
from simsiam.train import cli, pretrain as job
rank, restarts = int(os.environ.get("RANK", 0)), int(os.environ.get("TORCHELASTIC_RESTART_COUNT", 0))
step, taken = job.train_step, 0
def counted_step(*arguments):
    global taken
    taken += 1
    {fault}
    return step(*arguments)
job.train_step = counted_step
sys.exit(cli.run(sys.argv[1:]))
"""


class Launcher:
    """Starts `simsiam pretrain` in one process, or in several under torchrun."""

    def __init__(self, folder: Path, config: TinyConfig) -> None:
        self._folder, self._config = folder, config

    def command(self, run_dir: Path, options: list[str], fault: str, processes: int, restarts: int) -> list[str]:
        settings, program = self._folder / "settings.yaml", self._folder / "program.py"
        settings.write_text(yaml.safe_dump(to_tree(self._config(run_dir, *options))))
        program.write_text(PROGRAM.format(fault=fault))
        job = [str(program), "pretrain", str(settings), "--run-dir", str(run_dir)]
        if processes == 1:
            return [sys.executable, *job]
        torchrun = [sys.executable, "-m", "torch.distributed.run", f"--nproc-per-node={processes}"]
        place = ["--rdzv-backend=c10d", "--rdzv-endpoint=localhost:0", f"--max-restarts={restarts}"]
        return [*torchrun, *place, *job]

    def start(
        self, run_dir: Path, *options: str, fault: str = "pass", processes: int = 2, restarts: int = 0
    ) -> subprocess.Popen:
        command = self.command(run_dir, list(options), fault, processes, restarts)
        # As many threads in all as one process has: sums in float32 depend on them, a little.
        environment = os.environ | {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
        output = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
        return subprocess.Popen(command, env=environment, start_new_session=True, **output)

    def run(self, run_dir: Path, *options: str, code: int = 0, **how: Any) -> str:
        process = self.start(run_dir, *options, **how)
        try:
            output, _ = process.communicate(timeout=100)
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
        assert process.returncode == code, output
        return output


@pytest.fixture
def launcher(tiny_config: TinyConfig, tmp_path: Path) -> Launcher:
    return Launcher(tmp_path, tiny_config)


# 48 images in steps of 16, twice; the views are large enough for statistics that float32 doesn't spoil.
SMALL = (
    *("--batch-size=16", "--model.stem=cifar", "--knn.every-epochs=0", "--log.every-steps=1"),
    *("--optimizer.base-lr=0.2", "--max-steps=5"),
)


def final_state(run: Path) -> dict[str, Any]:
    return load_checkpoint(list_checkpoints(run / "checkpoints")[0])


@needs_time
@pytest.mark.timeout(120)
def test_two_processes_train_as_one_does_on_the_whole_batch(launcher: Launcher, tmp_path: Path, run_dir: Path) -> None:
    launcher.run(run_dir / "one", *SMALL, processes=1)
    output = launcher.run(run_dir / "two", *SMALL, processes=2)
    assert output.count("Learning rate: 0.0125 = 0.2 × 16 / 256") == 1, "the first process alone writes"
    one, two = read_metrics(run_dir / "one"), read_metrics(run_dir / "two")
    assert [record["step"] for record in one] == [record["step"] for record in two] == [0, 1, 2, 3, 4, 5, 5]
    for ours, theirs in zip(two, one, strict=True):
        measured = "knn" if "knn" in theirs else "loss"
        assert ours[measured] == pytest.approx(theirs[measured], rel=1e-5, abs=2e-6)
    ours, theirs = final_state(run_dir / "two"), final_state(run_dir / "one")
    for name, value in theirs["model"].items():  # running statistics are among them
        torch.testing.assert_close(ours["model"][name], value, rtol=1e-4, atol=2e-5, msg=name)


@needs_time
@pytest.mark.timeout(60)
def test_an_error_in_one_process_is_told_and_ends_the_job(launcher: Launcher, run_dir: Path) -> None:
    fault = "if rank == 1 and taken == 2: raise OSError('the disk of process 1 is gone')"
    started = time.monotonic()
    output = launcher.run(run_dir, *SMALL, fault=fault, code=1)
    assert time.monotonic() - started < 60
    assert "simsiam: the disk of process 1 is gone" in output


@needs_time
@pytest.mark.timeout(60)
def test_a_mistake_that_the_first_process_finds_is_told_once(launcher: Launcher, run_dir: Path) -> None:
    (run_dir / "checkpoints").mkdir(parents=True)
    (run_dir / "metrics.jsonl").write_text('{"step": 1, "loss": 0}\n')
    output = launcher.run(run_dir, *SMALL, code=1)
    assert output.count("is already in use: give --resume auto") == 1


@needs_time
@pytest.mark.timeout(60)
def test_sigterm_to_torchrun_saves_the_same_step_of_all_processes(launcher: Launcher, run_dir: Path) -> None:
    # Slow steps, and loader processes, which torchrun sends the signal as well.
    options = *SMALL, "--data.workers=1", "--data.backend=torch", "--max-steps=400", "--epochs=200"
    process = launcher.start(run_dir, *options, fault="time.sleep(0.1 * rank)")
    while not any(record["step"] >= 2 for record in read_metrics(run_dir)):
        time.sleep(0.1)
        assert process.poll() is None, process.communicate()[0]
    process.send_signal(signal.SIGTERM)
    output, _ = process.communicate(timeout=40)
    assert output.count("stopped by SIGTERM and saved") == 1, output
    assert final_state(run_dir)["step"] == read_metrics(run_dir)[-1]["step"]


@pytest.mark.parametrize("world_size", [1, 2, 4])
def test_shares_are_disjoint_and_make_up_the_batch_of_one_process(world_size: int, tiny_images: Path) -> None:
    source = open_source(tiny_images / "train")
    whole = CropPlan(source, Augmentation(), 16, 16, seed=3)
    shares = [
        CropPlan(source, Augmentation(), 16, 16, seed=3, rank=rank, world_size=world_size) for rank in range(world_size)
    ]
    for epoch, step in ((0, 0), (0, 2), (7, 1)):
        indices = [share.indices(epoch, step) for share in shares]
        assert len(set(np.concatenate(indices).tolist())) == 16
        assert np.array_equal(np.concatenate(indices), whole.indices(epoch, step))


def test_a_process_alone_agrees_with_itself_at_once() -> None:
    world = World()
    assert [world.agree(number) for number in (0, 15, 0)] == [0, 15, 0]
    assert world.from_first(lambda: "made") == "made"
    network = torch.nn.Linear(2, 2)
    assert world.replicate(network, torch.device("cpu")) is network
    assert torch.equal(world.average_(torch.tensor([3.0])), torch.tensor([3.0]))


def test_without_torchrun_there_is_one_process(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RANK", "WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    with join_world("cpu") as world:
        assert (world.rank, world.size, world.first, world.local_size) == (0, 1, True, 1)
    assert not torch.distributed.is_initialized()
