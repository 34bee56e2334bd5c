import base64
import json
import re
from html.parser import HTMLParser
from io import BytesIO
from pathlib import Path

import pytest
import yaml
from PIL import Image

from simsiam.pipeline.sources.open_source import open_source
from simsiam.train.config import PretrainConfig, to_tree
from simsiam.train.run.report import draw_views, report_page, report_run


class _Reader(HTMLParser):
    """Collects texts and pictures, and sees that every element is closed."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.texts: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.attributes += attrs
        if tag not in ("meta", "img"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.texts.append(data)


def read(page: str) -> _Reader:
    reader = _Reader()
    reader.feed(page)
    assert reader.open == []
    return reader


@pytest.fixture
def bare_run(tmp_path: Path) -> Path:
    """A run that was stopped before its first line."""
    run = tmp_path / "<b>run"
    run.mkdir()
    config = PretrainConfig(run_dir=Path("a&b<script>alert(1)</script>"))
    (run / "config.yaml").write_text(yaml.safe_dump(to_tree(config)))
    (run / "environment.json").write_text('{"cpu": "A & B", "packages": {"torch": "2"}}')
    return run


def test_page_of_a_finished_run_holds_everything(tiny_run: Path) -> None:
    page = (tiny_run / "report.html").read_text()
    reader = read(page)
    summary = json.loads((tiny_run / "summary.json").read_text())
    for text in (
        *("SimSiam, resnet18, 2.00 of 2 epochs", "optimizer.base_lr", "0.05", "packages.torch", "Throughput"),
        *(f"{summary['loss']:.4f}", f"{summary['knn']:.2%}", f"{summary['knn_random']:.2%}"),
    ):
        assert text in reader.texts, text
    pictures = [value for name, value in reader.attributes if name == "src" and value]
    assert len(pictures) == 3
    for picture, width in zip(pictures, (1500, 500, 600), strict=True):
        kind, _, data = picture.partition(",")
        with Image.open(BytesIO(base64.b64decode(data))) as image:
            assert kind == "data:image/png;base64" and image.format == "PNG" and image.width >= width


def test_page_fetches_nothing(tiny_run: Path) -> None:
    page = (tiny_run / "report.html").read_text()
    assert not re.findall(r"https?:|url\(|@import|<link|<script|<iframe", page)
    assert {name for name, _ in read(page).attributes} <= {"lang", "charset", "class", "style", "alt", "src"}


def test_shares_of_the_time_add_up(bare_run: Path) -> None:
    lines = [
        {"step": step, "epoch": step, "loss": -0.5, "images_per_second": 10.0, "views_per_second": 20.0}
        | {"wait_percent": wait}
        for step, wait in ((1, 90.0), (2, 20.0), (3, 10.0))
    ]
    (bare_run / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    texts = read(report_page(bare_run)).texts
    assert {"computing 80.0 %", "waiting 20.0 %", "10.0", "20.0"} <= set(texts)


def test_computing_is_shared_out_among_the_stages(bare_run: Path) -> None:
    line = {"step": 1, "epoch": 1, "loss": -0.5, "images_per_second": 10.0, "views_per_second": 20.0}
    stages = {"augment_ms": 1.0, "forward_ms": 3.0, "backward_ms": 5.5, "optimizer_ms": 0.5}
    untimed = line | {"wait_percent": 20.0}  # by an earlier version, or in a graph
    lines = [untimed, untimed | stages, untimed | stages | {"forward_ms": 30.0}, untimed | stages]
    (bare_run / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    texts = read(report_page(bare_run)).texts
    bar = ["augment 8.0 %", "forward 24.0 %", "backward 44.0 %", "optimizer 4.0 %", "waiting 20.0 %"]
    assert [text for text in texts if text in bar] == bar
    assert "24.0 %, 3.00 ms a step" in texts


def test_page_of_a_run_without_a_line_is_escaped_and_says_what_lacks(bare_run: Path) -> None:
    reader = read(report_page(bare_run))
    assert "a&b<script>alert(1)</script>" in reader.texts and "A & B" in reader.texts
    assert "<b>run" in reader.texts
    assert reader.texts.count("Not drawn.") == 3 and reader.texts.count("Not measured.") == 1


def test_picture_that_cannot_be_drawn_is_a_warning(bare_run: Path, tiny_images: Path) -> None:
    (bare_run / "plots").touch()  # a file where the folder should be
    (bare_run / "metrics.jsonl").write_text('{"step": 1, "epoch": 1, "loss": -0.5}\n')
    with pytest.warns(UserWarning, match="views of .* could not be drawn"):
        assert draw_views(bare_run, open_source(tiny_images / "train"), PretrainConfig()) is None
    with pytest.warns(UserWarning, match="curves of .* could not be drawn"):
        report_run(bare_run)
    assert "Not drawn." in (bare_run / "report.html").read_text()
