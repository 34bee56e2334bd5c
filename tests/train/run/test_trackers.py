import signal
import sys
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from simsiam.pipeline.errors import RunError, UsageError
from simsiam.train.config import LogConfig, PretrainConfig, to_tree
from simsiam.train.interruption import Interrupted
from simsiam.train.run import trackers as tracking
from simsiam.train.run.metrics import MetricsLog
from simsiam.train.run.record import Record
from simsiam.train.run.trackers import TensorBoard, WeightsAndBiases, check_trackers, open_trackers

WANDB = PretrainConfig(log=LogConfig(tensorboard=False, wandb="views"))


@pytest.fixture
def sent(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, Any]]:
    """What a program in place of wandb is told."""
    calls: list[tuple[str, Any]] = []
    run = SimpleNamespace(
        define_metric=lambda name, step_metric: calls.append(("metric", (name, step_metric))),
        log=lambda record: calls.append(("log", record)),
        finish=lambda exit_code: calls.append(("finish", exit_code)),
    )

    def init(**settings: Any) -> Any:
        calls.append(("init", settings))
        return run

    monkeypatch.setitem(sys.modules, "wandb", SimpleNamespace(init=init, Image=lambda pixels: ("image", pixels.shape)))
    return calls


def test_tensorboard_gets_every_value_and_pictures(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    Image.new("RGB", (7, 5), "red").save(tmp_path / "sheet.png")
    log = MetricsLog(tmp_path, [TensorBoard(tmp_path)])
    log.write(Record(step=5, epoch=0.5, loss=-0.5, knn=0.25))
    log.write(Record(step=10, epoch=1.0, loss=-0.75))
    log.show_picture("neighbours", tmp_path / "sheet.png", step=12)
    log.close()
    events = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert [(event.step, event.value) for event in events.Scalars("loss")] == [(5, -0.5), (10, -0.75)]
    assert [(event.step, event.value) for event in events.Scalars("knn")] == [(5, 0.25)]
    (shown,) = events.Images("neighbours")
    assert (shown.step, shown.width, shown.height) == (12, 7, 5)


def test_tensorboard_that_cannot_write_is_told_in_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "tensorboard").touch()
    with pytest.raises(UsageError, match=r"TensorBoard can't write to .*tensorboard: .* log\.tensorboard off"):
        TensorBoard(tmp_path)


def test_only_what_is_asked_for_is_opened(tmp_path: Path) -> None:
    assert open_trackers(replace(WANDB, log=LogConfig(tensorboard=False)), tmp_path, 0) == []
    assert list(tmp_path.iterdir()) == []
    (opened,) = open_trackers(PretrainConfig(), tmp_path, 0)
    assert isinstance(opened, TensorBoard)
    opened.close()


def test_wandb_gets_the_same(sent: list[tuple[str, Any]], tmp_path: Path) -> None:
    (tracker,) = open_trackers(WANDB, tmp_path / "..", 0)
    tracker.show({"step": 5, "loss": -0.5})
    tracker.show_picture("views", np.zeros((5, 7, 3), np.uint8), 6)
    tracker.close()
    (_, settings), metric, *rest = sent
    assert (settings["project"], settings["name"]) == ("views", tmp_path.parent.name)
    assert (settings["resume"], settings["config"]) == ("allow", to_tree(WANDB))
    assert metric == ("metric", ("*", "step"))
    views = {"step": 6, "views": ("image", (5, 7, 3))}
    assert rest == [("log", {"step": 5, "loss": -0.5}), ("log", views), ("finish", 0)]


@pytest.mark.parametrize(
    ("error", "code"), [(RunError("diverged"), 1), (Interrupted(signal.SIGTERM, Path("run")), 0)], ids=str
)
def test_wandb_learns_how_a_run_ended(error: Exception, code: int, sent: list[tuple[str, Any]], tmp_path: Path) -> None:
    with pytest.raises(type(error)), closing(WeightsAndBiases("project", tmp_path, PretrainConfig())):
        raise error
    assert sent[-1] == ("finish", code)


def test_a_run_that_goes_on_keeps_its_id_at_wandb(sent: list[tuple[str, Any]], tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    for folder in (tmp_path, tmp_path, tmp_path / "other"):
        open_trackers(WANDB, folder, 0)
    first, again, other = [settings["id"] for call, settings in sent if call == "init"]
    assert first == again != other


def test_a_missing_package_is_told_with_the_way_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tracking, "find_spec", lambda name: None)
    with pytest.raises(UsageError, match=r"wandb, which isn.t installed: pip install wandb\."):
        check_trackers(WANDB)
    check_trackers(PretrainConfig())


def test_a_folder_of_that_name_is_not_the_package(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "wandb").mkdir()
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    with pytest.raises(UsageError, match="which isn't installed"):
        check_trackers(WANDB)


def test_nobody_logged_in_at_wandb_is_told_with_the_way_out(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    class Error(Exception):
        pass

    def init(**_: Any) -> None:
        raise Error("No API key configured.")

    monkeypatch.setitem(sys.modules, "wandb", SimpleNamespace(init=init, Error=Error))
    with pytest.raises(UsageError, match=r"No API key configured\. Where `wandb login` .* WANDB_MODE=offline"):
        open_trackers(WANDB, tmp_path, 0)
