"""Report of a run: summary.json, the curves, and report.html, one page with all pictures in it."""

import base64
import json
import statistics
import warnings
from collections.abc import Iterable
from html import escape
from pathlib import Path
from typing import Any

import yaml

from simsiam.pipeline.atomic_write import write_text_atomically
from simsiam.pipeline.errors import ImageError, RunError, UsageError
from simsiam.pipeline.source import Source
from simsiam.train.config import PretrainConfig, flatten
from simsiam.train.preview import preview
from simsiam.train.run.metrics import Line, read_metrics, summarize
from simsiam.train.run.plots import plot_runs
from simsiam.train.run.record import METRICS
from simsiam.train.step import STAGES

_SHEET_IMAGES = 4

_STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 72rem; margin: 2rem auto; padding: 0 1rem; color: #222; }
h1 { font-size: 1.6rem; margin-bottom: 0; } h2 { font-size: 1.2rem; margin-top: 2.5rem; }
p.state { margin-top: 0; color: #666; } img { max-width: 100%; } details { margin-top: 1rem; }
table { border-collapse: collapse; font-size: .9rem; } td { padding: .15rem 1.5rem .15rem 0; vertical-align: top; }
td:first-child { color: #666; } td:last-child { font-variant-numeric: tabular-nums; overflow-wrap: anywhere; }
.bar { display: flex; max-width: 40rem; height: 1.6rem; font-size: .8rem; line-height: 1.6rem; margin: .5rem 0; }
.bar span { overflow: hidden; white-space: nowrap; text-indent: .5rem; background: #9cc9a3; }
.bar .augment { background: #d9d2a0; } .bar .backward { background: #86b3c9; } .bar .optimizer { background: #b9a6cf; }
.bar .waiting { background: #e8a598; }
"""


def draw_views(run_dir: Path, source: Source, config: PretrainConfig) -> Path | None:
    """Draw the sheet of augmented views of the first images, and return the PNG; None if that fails.

    A failure is a warning, since it must not end the run.
    """
    out = run_dir / "plots" / "views.png"
    try:
        return preview(
            source,
            out,
            augmentation=config.augmentation,
            size=config.data.size,
            count=min(_SHEET_IMAGES, len(source)),
            seed=config.seed,
            backends=("torch",),  # decodes only these few images
            on_broken=config.data.on_broken,
        )
    except ImageError:
        return None  # the run's first step finds the same image, and reports it
    except (OSError, RunError, UsageError) as error:
        warnings.warn(f"The augmented views of {run_dir} could not be drawn: {error}", stacklevel=2)
        return None


def report_run(run_dir: Path) -> None:
    """Write `summary.json`, the curves and `report.html`; a failure is a warning, as in `draw_views`."""
    try:
        summary = summarize(read_metrics(run_dir))
        write_text_atomically(run_dir / "summary.json", json.dumps(summary, indent=2) + "\n")
    except OSError as error:
        warnings.warn(f"The summary of {run_dir} could not be written: {error}", stacklevel=2)
    try:
        if read_metrics(run_dir):
            plot_runs([run_dir], run_dir / "plots" / "curves.png")
    except (OSError, RunError, UsageError) as error:
        warnings.warn(f"The curves of {run_dir} could not be drawn: {error}", stacklevel=2)
    try:
        write_text_atomically(run_dir / "report.html", report_page(run_dir))
    except OSError as error:
        warnings.warn(f"The report of {run_dir} could not be written: {error}", stacklevel=2)


def report_page(run_dir: Path) -> str:
    """Return the page about a run folder as HTML, with its pictures; for missing ones it says so."""
    records = read_metrics(run_dir)
    config = yaml.safe_load((run_dir / "config.yaml").read_text())
    environment = json.loads((run_dir / "environment.json").read_text())
    name = escape(run_dir.resolve().name)
    return (
        f'<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n<title>{name}</title>\n'
        f"<style>{_STYLE}</style>\n</head>\n<body>\n<h1>{name}</h1>\n"
        f'<p class="state">{escape(_state(records, config))}</p>\n'
        f"<h2>Summary</h2>\n{_table(_figures(records, config))}"
        f"<h2>Curves</h2>\n{_picture(run_dir / 'plots' / 'curves.png', 'Curves of the metrics')}"
        f"<h2>Throughput</h2>\n{_throughput(records)}"
        f"<h2>Augmented views</h2>\n{_picture(run_dir / 'plots' / 'views.png', 'Originals, crops and views')}"
        f"<h2>Nearest neighbours</h2>\n{_picture(run_dir / 'plots' / 'neighbours.png', 'Test images and neighbours')}"
        f"<h2>Settings</h2>\n{_table(flatten(config))}"
        f"<h2>Environment</h2>\n{_table(flatten(environment))}"
        "</body>\n</html>\n"
    )


def _state(records: list[Line], config: dict[str, Any]) -> str:
    epochs = records[-1]["epoch"] if records else 0
    return f"SimSiam, {config['model']['arch']}, {epochs:.2f} of {config['epochs']} epochs"


def _figures(records: list[Line], config: dict[str, Any]) -> Iterable[tuple[str, str]]:
    last = summarize(records)
    healthy = config["model"]["projection_dim"] ** -0.5
    rows = []
    for name, metric in METRICS.items():
        title = metric.summary.format(healthy=healthy)
        if title and f"{name}_random" in last:
            rows.append((f"{title} at random initialisation", metric.number.format(last[f"{name}_random"])))
        if title and name in last:
            rows.append((title, metric.number.format(last[name])))
    return rows


def _throughput(records: list[Line]) -> str:
    timed = [record for record in records if "wait_percent" in record]
    if not timed:
        return "<p>Not measured.</p>\n"
    rates = ("images_per_second", "views_per_second", "wait_percent")
    images, views, wait = (statistics.median(record[rate] for record in timed) for rate in rates)
    rows = [("Images/s (source images)", f"{images:,.1f}"), ("Views/s", f"{views:,.1f}")]
    rows.append(("Waiting for data", f"{wait:.1f} %"))
    stages = {
        stage: statistics.median(record[f"{stage}_ms"] for record in timed if f"{stage}_ms" in record)
        for stage in STAGES
        if any(f"{stage}_ms" in record for record in timed)
    }
    # The stages of the last step before each line; the time not spent waiting is split in their proportion.
    shares = {stage: (100 - wait) * each / sum(stages.values()) for stage, each in stages.items()}
    rows += [(stage.capitalize(), f"{shares[stage]:.1f} %, {each:,.2f} ms a step") for stage, each in stages.items()]
    parts = [*(shares or {"computing": 100 - wait}).items(), ("waiting", wait)]
    bar = "".join(
        f'<span class="{name}" style="width: {share:.1f}%">{name} {share:.1f} %</span>' for name, share in parts
    )
    return f'<p>Medians over {len(timed)} lines of metrics.jsonl.</p>\n<div class="bar">{bar}</div>\n{_table(rows)}'


def _table(rows: Iterable[tuple[str, Any]]) -> str:
    cells = (f"<tr><td>{escape(str(name))}</td><td>{escape(str(value))}</td></tr>\n" for name, value in rows)
    return f"<table>\n{''.join(cells)}</table>\n"


def _picture(file: Path, title: str) -> str:
    if not file.exists():
        return "<p>Not drawn.</p>\n"
    data = base64.b64encode(file.read_bytes()).decode()
    return f'<img alt="{escape(title)}" src="data:image/png;base64,{data}">\n'
