import os
import re
from pathlib import Path

import pytest
import torch

from simsiam.pipeline.errors import UsageError
from simsiam.train.run.checkpoint import (
    DamagedCheckpoint,
    checkpoint_path,
    list_checkpoints,
    load_checkpoint,
    newest_checkpoint,
    open_checkpoint,
    save_checkpoint,
    set_aside,
)


def state(step: int) -> dict:
    return {"step": step, "config": {"epochs": 2}, "model": {"weight": torch.full((100,), float(step))}}


def steps(folder: Path) -> list[int]:
    return [int(path.stem.removeprefix("step-")) for path in list_checkpoints(folder)]


def test_state_comes_back(tmp_path: Path) -> None:
    path = save_checkpoint(state(7) | {"window": {"sums": torch.ones(2)}}, tmp_path / "new" / "folder", 7, keep=2)
    assert path == checkpoint_path(tmp_path / "new" / "folder", 7)
    loaded = load_checkpoint(path)
    assert (loaded["step"], loaded["config"]) == (7, {"epochs": 2})
    assert torch.equal(loaded["model"]["weight"], torch.full((100,), 7.0))
    assert torch.equal(loaded["window"]["sums"], torch.ones(2))


def test_newest_are_kept_by_step(tmp_path: Path) -> None:
    for step in (5, 10, 1000, 20, 2000):
        save_checkpoint(state(step), tmp_path, step, keep=3)
    assert steps(tmp_path) == [2000, 1000, 20]


def test_other_files_are_left_alone(tmp_path: Path) -> None:
    for name in ("step-best.pt", "mine.pt", "step-000000001.pt.orig"):
        (tmp_path / name).touch()
    for step in range(4):
        save_checkpoint(state(step), tmp_path, step, keep=2)
    assert {"step-best.pt", "mine.pt", "step-000000001.pt.orig"} <= {path.name for path in tmp_path.iterdir()}
    assert steps(tmp_path) == [3, 2]


def test_failed_save_leaves_the_old_one_and_nothing_half(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_checkpoint(state(1), tmp_path, 1, keep=2)

    def fail(content, file) -> None:
        file.write(b"half a checkpoint")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", fail)
    for step in (1, 2):
        with pytest.raises(OSError, match="No space left"):
            save_checkpoint(state(99), tmp_path, step, keep=2)
    assert [path.name for path in tmp_path.iterdir()] == ["step-000000001.pt"]
    assert load_checkpoint(checkpoint_path(tmp_path, 1))["model"]["weight"][0] == 1


def test_file_is_on_disk_before_it_gets_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    events = []
    monkeypatch.setattr(os, "fsync", lambda descriptor: events.append([path.name for path in tmp_path.iterdir()]))
    save_checkpoint(state(1), tmp_path, 1, keep=2)
    # First the file under its temporary name, then the folder that holds the new name.
    assert events == [[f"step-000000001.pt.{os.getpid()}.part"], ["step-000000001.pt"]]


def test_what_a_killed_save_left_is_no_checkpoint(tmp_path: Path) -> None:
    (tmp_path / "step-000000003.pt.123.part").write_bytes(b"half")
    assert newest_checkpoint(tmp_path) is None


def test_damaged_newest_is_passed_over_with_a_warning(tmp_path: Path) -> None:
    for step in (1, 2, 3):
        path = save_checkpoint(state(step), tmp_path, step, keep=5)
        if step > 1:
            path.write_bytes(path.read_bytes()[:-200])
    with pytest.warns(UserWarning, match="Trying the one before") as warned:
        found = newest_checkpoint(tmp_path)
    assert found is not None and found[0].name == "step-000000001.pt" and found[1]["step"] == 1
    assert [re.findall(r"step-\d+", str(warning.message)) for warning in warned] == [
        ["step-000000003"],
        ["step-000000002"],
    ]


def test_changed_byte_is_noticed(tmp_path: Path) -> None:
    good = save_checkpoint(state(1), tmp_path, 1, keep=5)
    damaged = save_checkpoint(state(2), tmp_path, 2, keep=5)
    content = bytearray(damaged.read_bytes())
    content[content.index(torch.full((100,), 2.0).numpy().tobytes()) + 200] ^= 1
    damaged.write_bytes(content)
    with pytest.raises(DamagedCheckpoint, match=r"step-000000002\.pt is damaged: .* has changed since it was written"):
        load_checkpoint(damaged)
    with pytest.warns(UserWarning, match="Trying the one before"):
        found = newest_checkpoint(tmp_path)
    assert found is not None and found[0] == good


@pytest.mark.filterwarnings("ignore:The checkpoint")
def test_folder_of_nothing_but_damaged_ones_is_refused(tmp_path: Path) -> None:
    save_checkpoint(state(1), tmp_path, 1, keep=2).write_bytes(b"")
    with pytest.raises(UsageError, match=r"All checkpoints .* damaged; train again"):
        newest_checkpoint(tmp_path)


@pytest.mark.parametrize("older", [{"format": 1}, {}])
def test_checkpoint_of_another_format_is_refused_and_not_passed_over(older: dict, tmp_path: Path) -> None:
    save_checkpoint(state(1), tmp_path, 1, keep=2)
    torch.save(state(2) | older, checkpoint_path(tmp_path, 2))
    with pytest.raises(
        UsageError, match=rf"has format {older.get('format')}, and this version of simsiam reads 2: use"
    ):
        newest_checkpoint(tmp_path)


def test_every_so_many_steps_one_is_kept_for_good(tmp_path: Path) -> None:
    for step in range(1, 14):
        save_checkpoint(state(step), tmp_path, step, keep=2, keep_every_steps=5)
    assert steps(tmp_path) == [13, 12, 10, 5]


def test_later_ones_are_set_aside(tmp_path: Path) -> None:
    for step in (5, 10, 15):
        save_checkpoint(state(step), tmp_path, step, keep=5)
    assert set_aside(tmp_path, after_step=15) is None
    place = set_aside(tmp_path, after_step=5)
    assert place is not None and (steps(tmp_path), steps(place)) == ([5], [15, 10])
    save_checkpoint(state(15), tmp_path, 15, keep=5)
    again = set_aside(tmp_path, after_step=5)
    assert again is not None and again != place and (steps(again), steps(place)) == ([15], [15, 10])


def test_nothing_is_found_in_no_folder(tmp_path: Path) -> None:
    assert newest_checkpoint(tmp_path / "none") is None


class Bomb:
    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self):
        return Path.touch, (self.target,)


def test_code_in_a_checkpoint_is_not_run(tmp_path: Path) -> None:
    path = tmp_path / "step-000000001.pt"
    torch.save(state(1) | {"extra": Bomb(tmp_path / "exploded")}, path)
    with pytest.raises(ValueError, match=re.escape(f"{path} holds more than tensors, numbers and text")):
        load_checkpoint(path)
    assert not (tmp_path / "exploded").exists()


@pytest.mark.parametrize("content", [b"", b"no checkpoint at all", b"PK\x03\x04 not quite a zip"])
def test_file_that_is_none_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "step-000000001.pt"
    path.write_bytes(content)
    with pytest.raises(ValueError, match="is truncated, or is no checkpoint") as caught:
        load_checkpoint(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("content", [{"state_dict": {}, "epoch": 3}, [1, 2], torch.ones(3)])
def test_foreign_file_is_refused(tmp_path: Path, content: object) -> None:
    path = tmp_path / "theirs.pth"
    torch.save(content, path)
    with pytest.raises(ValueError, match="no checkpoint of simsiam; give a run folder, or a"):
        load_checkpoint(path)


def test_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"none\.pt can't be read: No such file or directory"):
        load_checkpoint(tmp_path / "none.pt")


@pytest.mark.parametrize("named", [".", "checkpoints", "checkpoints/step-000000002.pt"])
def test_a_run_folder_stands_for_its_newest_checkpoint(tmp_path: Path, named: str) -> None:
    for step in (1, 2):
        save_checkpoint(state(step), tmp_path / "checkpoints", step, keep=2)
    path, loaded = open_checkpoint(tmp_path / named)
    assert (path.name, loaded["step"]) == ("step-000000002.pt", 2)


def test_a_folder_without_a_checkpoint_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"There is no checkpoint in .*checkpoints; give a run folder"):
        open_checkpoint(tmp_path)
