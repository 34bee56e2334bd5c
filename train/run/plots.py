"""Curves of one or several runs as one PNG, from their metrics.jsonl."""

from collections.abc import Sequence
from pathlib import Path

from simsiam.pipeline.atomic_write import open_atomically
from simsiam.pipeline.errors import UsageError
from simsiam.train.run.metrics import read_metrics
from simsiam.train.run.record import METRICS


def plot_runs(run_dirs: Sequence[Path], out: Path) -> Path:
    """Draw each metric that has a curve against epochs; one colour per run, with a legend below.

    Raises UsageError when a folder holds no metrics.
    """
    import matplotlib

    matplotlib.use("Agg")  # files only; no display is needed
    from matplotlib import pyplot
    from matplotlib.lines import Line2D

    runs = {run_dir: read_metrics(run_dir) for run_dir in run_dirs}
    for run_dir, records in runs.items():
        if not records:
            raise UsageError(f"{run_dir} is no run folder, or its metrics.jsonl has no line yet; give a run folder.")
    colors = [f"C{number % 10}" for number in range(len(runs))]
    healthy = {width**-0.5 for width in map(_projection_dim, runs) if width}
    curves = {name: metric for name, metric in METRICS.items() if metric.curve}
    columns = 3
    rows = -(-len(curves) // columns)
    figure, axes = pyplot.subplots(rows, columns, figsize=(14, 3.5 * rows), layout="constrained", squeeze=False)
    for axis in axes.flat[len(curves) :]:
        axis.set_axis_off()
    for axis, (name, metric) in zip(axes.flat, curves.items(), strict=False):
        for color, records in zip(colors, runs.values(), strict=True):
            points = [(record["epoch"], record[name]) for record in records if name in record]
            if points:
                axis.plot(
                    *zip(*points, strict=True),
                    color=color,
                    marker="o" if len(points) < 30 else None,
                    ms=3,
                )
        for std in healthy if metric.has_healthy_value else ():
            axis.axhline(std, linestyle="--", color="gray", linewidth=1)
        axis.set(title=metric.curve, xlabel="epoch")
        axis.grid(alpha=0.3)
        axis.ticklabel_format(axis="y", useOffset=False)  # 0.00187, not an offset to a number above the axis
        if metric.from_zero and axis.lines:
            axis.set_ylim(0, axis.dataLim.ymax * 1.1 or None)
        if not axis.lines:
            axis.text(0.5, 0.5, "not measured", ha="center", va="center", transform=axis.transAxes, color="gray")
    if len(runs) > 1:
        named = zip(colors, tell_apart(list(runs)), strict=True)
        lines = [Line2D([], [], color=color, label=name) for color, name in named]
        figure.legend(handles=lines, loc="outside lower center", ncols=min(len(lines), 4))
    with open_atomically(out) as file:
        figure.savefig(file, format="png", dpi=110)
    pyplot.close(figure)
    return out


def tell_apart(run_dirs: Sequence[Path]) -> list[str]:
    """Return a name for each folder: its own, after as many parents as make it unique."""
    paths = [run_dir.resolve().parts for run_dir in run_dirs]

    def name(path: tuple[str, ...]) -> str:
        ends = (path[-count:] for count in range(1, len(path)))
        alone = (end for end in ends if sum(other[-len(end) :] == end for other in paths) == 1)
        return "/".join(next(alone, path))

    return [name(path) for path in paths]


def _projection_dim(run_dir: Path) -> int | None:
    import yaml

    try:
        return yaml.safe_load((run_dir / "config.yaml").read_bytes())["model"]["projection_dim"]
    except (OSError, KeyError, TypeError, yaml.YAMLError):
        return None
