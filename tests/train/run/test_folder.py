import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from simsiam.train.config import DataConfig, KnnConfig, PretrainConfig, to_tree
from simsiam.train.run.checkpoint import list_checkpoints, save_checkpoint
from simsiam.train.run.folder import RunFolder, open_run_folder, stop_job

CONFIG = PretrainConfig(epochs=5)
IMAGES = {"count": 48, "fingerprint": "abc"}


def save(run: Path, step: int, config: PretrainConfig = CONFIG, images: dict = IMAGES) -> Path:
    state = {"model": {}, "config": to_tree(config), "step": step, "images": images}
    return save_checkpoint(state, run / "checkpoints", step, keep=9)


def started(run: Path) -> Path:
    run.mkdir(parents=True)
    (run / "metrics.jsonl").write_text('{"step": 1}\n')
    return run


def opened(config: PretrainConfig, default: Path, job: str | None = None) -> RunFolder:
    with open_run_folder(config, default, IMAGES, job) as folder:
        return folder


def with_resume(value: str | Path) -> PretrainConfig:
    return replace(CONFIG, resume=str(value))


def test_new_folder_is_made_with_configuration_and_environment(tmp_path: Path) -> None:
    run = opened(CONFIG, tmp_path / "runs" / "new")
    assert (run.path, run.state, run.resumed_from) == (tmp_path / "runs" / "new", None, None)
    assert run.checkpoints == run.path / "checkpoints"
    assert yaml.safe_load((run.path / "config.yaml").read_text()) == to_tree(CONFIG)
    assert "torch" in json.loads((run.path / "environment.json").read_text())["packages"]
    assert sorted(path.name for path in run.path.iterdir()) == [".lock", "config.yaml", "environment.json"]


def test_named_folder_goes_before_the_default(tmp_path: Path) -> None:
    config = replace(CONFIG, run_dir=tmp_path / "named")
    assert opened(config, tmp_path / "default").path == tmp_path / "named"
    assert not (tmp_path / "default").exists()


@pytest.mark.parametrize("sign", ["metrics", "checkpoint"])
def test_folder_in_use_is_refused(tmp_path: Path, sign: str) -> None:
    if sign == "metrics":
        started(tmp_path / "run")
    else:
        save(tmp_path / "run", 3)
    message = f"The run folder {tmp_path / 'run'} is already in use: resume its run"
    with pytest.raises(ValueError, match=re.escape(message)):
        opened(CONFIG, tmp_path / "run")
    assert not (tmp_path / "run" / "config.yaml").exists()


@pytest.mark.parametrize("resume", ["never", "auto"])
def test_folder_of_something_else_is_refused_and_left_alone(tmp_path: Path, resume: str) -> None:
    (tmp_path / "a photograph.jpg").touch()
    with pytest.raises(ValueError, match=re.escape(f"{tmp_path} is not empty, and what it holds is no run; give anot")):
        opened(with_resume(resume), tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["a photograph.jpg"]


@pytest.mark.parametrize("place", [".", "cat", "runs/new"])
@pytest.mark.parametrize("which", ["data", "knn"])
def test_folder_among_the_images_is_refused(tmp_path: Path, which: str, place: str) -> None:
    images = tmp_path / "images"
    (images / "cat").mkdir(parents=True)
    config = replace(CONFIG, data=DataConfig(path=images))
    if which == "knn":
        config = replace(CONFIG, knn=KnnConfig(train=images, test=tmp_path))
    with pytest.raises(ValueError, match=re.escape(f"is in {images}, among the images")):
        opened(config, images / place)
    assert [path.name for path in images.rglob("*")] == ["cat"]


def test_auto_goes_on_from_the_newest(tmp_path: Path) -> None:
    started(tmp_path / "run")
    for step in (3, 12):
        newest = save(tmp_path / "run", step)
    run = opened(with_resume("auto"), tmp_path / "run")
    assert run.resumed_from == newest
    assert run.state is not None and run.state["step"] == 12


def test_auto_starts_where_there_is_nothing_to_go_on_from(tmp_path: Path) -> None:
    assert opened(with_resume("auto"), tmp_path / "new").state is None
    # Killed before its first checkpoint.
    assert opened(with_resume("auto"), started(tmp_path / "killed")).state is None


def test_checkpoint_of_the_same_folder_goes_back_and_leaves_later_ones_aside(tmp_path: Path) -> None:
    old = save(started(tmp_path / "run"), 3)
    later = [save(tmp_path / "run", step) for step in (9, 12)]
    aside = old.parent / "later-than-000000003-1"
    with pytest.warns(UserWarning, match=f"checkpoints of later steps are now in {re.escape(str(aside))}; delete"):
        run = opened(with_resume(old), tmp_path / "run")
    assert run.state is not None and run.state["step"] == 3
    assert list_checkpoints(old.parent) == [old]
    assert [path.name for path in list_checkpoints(aside)] == [path.name for path in reversed(later)]


@pytest.mark.filterwarnings("ignore:The checkpoint")
def test_damaged_ones_do_not_count_as_newest_any_more(tmp_path: Path) -> None:
    run, old = tmp_path / "run", save(tmp_path / "run", 3)
    for step in (9, 12):
        save(run, step).write_bytes(b"damaged")
    assert opened(with_resume("auto"), run).resumed_from == old
    new = save_checkpoint({"model": {}, "config": {}, "step": 4}, old.parent, 4, keep=2)
    assert list_checkpoints(old.parent) == [new, old]


def test_job_that_is_started_again_goes_on_whatever_it_was_started_with(tmp_path: Path) -> None:
    assert opened(CONFIG, tmp_path / "run", job="one").state is None
    started_again = opened(CONFIG, tmp_path / "run", job="one")  # killed before its first checkpoint
    assert (started_again.state, started_again.resumed_from) == (None, None)
    newest = save(tmp_path / "run", 3)
    assert opened(CONFIG, tmp_path / "run", job="one").resumed_from == newest
    for other in ("another", None):
        with pytest.raises(ValueError, match="is already in use"):
            opened(CONFIG, tmp_path / "run", job=other)
    assert opened(CONFIG, tmp_path / "run", job="one").resumed_from == newest


def test_job_that_was_stopped_is_not_started_again(tmp_path: Path) -> None:
    stop_job(opened(CONFIG, tmp_path / "run", job="one"))
    save(tmp_path / "run", 3)
    with pytest.raises(ValueError, match=r"stopped by its health.* not resumed"):
        opened(with_resume("auto"), tmp_path / "run", job="one")
    assert opened(with_resume("auto"), tmp_path / "run", job="another").state is not None


def test_job_begun_from_another_run_begins_there_again_until_it_has_a_checkpoint_of_its_own(tmp_path: Path) -> None:
    config, run = with_resume(save(tmp_path / "theirs", 3)), tmp_path / "run"
    for _ in range(2):
        assert opened(config, run, job="one").resumed_from == tmp_path / "theirs" / "checkpoints" / "step-000000003.pt"
        (run / "metrics.jsonl").write_text('{"step": 4}\n')
    ours = save(run, 6)
    assert opened(config, run, job="one").resumed_from == ours


def test_checkpoint_of_another_run_needs_a_new_folder(tmp_path: Path) -> None:
    theirs = save(tmp_path / "theirs", 3)
    run = opened(with_resume(theirs), tmp_path / "new")
    assert run.resumed_from == theirs and run.state is not None
    with pytest.raises(ValueError, match=f"already in use by another run than {re.escape(str(theirs))}"):
        opened(with_resume(theirs), started(tmp_path / "mine"))


def test_what_a_killed_process_left_half_written_is_swept(tmp_path: Path) -> None:
    newest = save(started(tmp_path / "run"), 3)
    left = [tmp_path / "run" / "report.html.12.part", tmp_path / "run" / "plots" / "curves.png.12.part"]
    left.append(newest.with_name("step-000000006.pt.12.part"))
    mine = tmp_path / "run" / "mine" / "notes.part"
    for file in (*left, mine):
        file.parent.mkdir(exist_ok=True)
        file.touch()
    with pytest.raises(ValueError, match="already in use"):
        opened(CONFIG, tmp_path / "run")
    assert all(file.exists() for file in left)
    opened(with_resume("auto"), tmp_path / "run")
    assert mine.exists() and not any(file.exists() for file in left)


def test_missing_checkpoint_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"none\.pt can't be read"):
        opened(with_resume(tmp_path / "none.pt"), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_other_settings_are_refused_by_name(tmp_path: Path) -> None:
    save(tmp_path / "run", 3)
    changed = replace(with_resume("auto"), seed=1, model=replace(CONFIG.model, arch="resnet18"))
    message = "other settings (seed was 0, now 1; model.arch was resnet50, now resnet18)"
    with pytest.raises(ValueError, match=re.escape(message)):
        opened(changed, tmp_path / "run")


def test_other_images_are_refused_before_anything_is_written(tmp_path: Path) -> None:
    save(tmp_path / "run", 3, images={"count": 48, "fingerprint": "other"})
    with pytest.raises(ValueError, match="started on 48 images, and None has as many, but with other names"):
        opened(with_resume("auto"), tmp_path / "run")
    assert not (tmp_path / "run" / "config.yaml").exists()


def test_paths_and_logging_may_change_on_the_way(tmp_path: Path) -> None:
    save(tmp_path / "run", 3)
    moved = replace(
        with_resume("auto"),
        max_steps=4,
        data=replace(CONFIG.data, path=Path("elsewhere"), workers=7),
        log=replace(CONFIG.log, every_steps=1),
    )
    run = opened(moved, tmp_path / "run")
    assert run.state is not None
    assert yaml.safe_load((run.path / "config.yaml").read_text())["data"]["path"] == "elsewhere"


def test_folder_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for path in (tmp_path / "file", tmp_path / "file" / "run"):
        with pytest.raises(ValueError, match=rf"{re.escape(str(path))} can't be written: .+ Give another"):
            opened(CONFIG, path)
