import threading
import time
from contextlib import closing
from pathlib import Path

import pytest
import torch

from simsiam.train.run import checkpoint_writer
from simsiam.train.run.checkpoint import list_checkpoints, load_checkpoint
from simsiam.train.run.checkpoint_writer import CheckpointWriter, snapshot


def state(step: int) -> dict:
    return {"step": step, "config": {}, "model": {"weight": torch.full((10,), float(step))}}


def test_writer_works_next_to_the_caller_one_file_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save, writing, most = checkpoint_writer.save_checkpoint, [], []

    def slow_save(*arguments):
        assert threading.current_thread() is not threading.main_thread()
        writing.append(arguments)
        most.append(len(writing))
        time.sleep(0.05)
        save(*arguments)
        writing.remove(arguments)

    monkeypatch.setattr(checkpoint_writer, "save_checkpoint", slow_save)
    with closing(CheckpointWriter(tmp_path, keep=9)) as writer:
        for step in (1, 2, 3):
            writer.start(state(step), step)
        assert len(list_checkpoints(tmp_path)) == 2  # the third is on its way
    assert most == [1, 1, 1]
    assert [load_checkpoint(path)["step"] for path in list_checkpoints(tmp_path)] == [3, 2, 1]


def test_failed_file_is_a_warning_and_an_error_only_if_it_was_the_last(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    writer = CheckpointWriter(tmp_path, keep=9)
    writer.start(state(1), 1)
    writer.finish()
    with monkeypatch.context() as patch, pytest.warns(UserWarning, match=r"step 2 could not be written: disk full"):

        def full(*_: object) -> None:
            raise OSError("disk full\nand a second line")

        patch.setattr(torch, "save", full)
        writer.start(state(2), 2)
        with pytest.raises(RuntimeError, match="step 2 could not be written"):
            writer.finish()
    writer.start(state(3), 3)
    writer.finish()
    assert [path.name for path in list_checkpoints(tmp_path)] == ["step-000000003.pt", "step-000000001.pt"]


def test_snapshot_shares_no_memory_and_keeps_the_layout() -> None:
    images = torch.rand(2, 3, 4, 4).to(memory_format=torch.channels_last)
    live = {"a": [images, 5], "b": ("text", torch.tensor(7))}
    copy = snapshot(live)
    expected = images.clone()
    images.zero_()
    live["b"][1].zero_()
    assert torch.equal(copy["a"][0], expected) and copy["a"][0].is_contiguous(memory_format=torch.channels_last)
    assert copy["a"][1] == 5 and copy["b"][0] == "text" and copy["b"][1] == 7
