"""Record: one line of metrics.jsonl. Each key is defined here once, with its meaning, its unit and how it is shown.

The console, the curves, the report, TensorBoard and the list in train/README.md derive from it: a new metric is a field
here, and its measurement.
"""

from dataclasses import dataclass, fields
from typing import Annotated, Any, get_type_hints

from simsiam.train.field_docstrings import field_docstrings
from simsiam.train.terminal.words import rate_text


@dataclass(frozen=True)
class Metric:
    """How a key is shown. Texts are format strings of `value`, `rate` (the value as a rate) and `share` (of 1/√d)."""

    unit: str = ""
    console: str = ""
    """The key on the console; empty: not shown."""
    row: int = 0
    """Row of the console's panel, from 0."""
    curve: str = ""
    """Title of its curve; empty: no curve."""
    from_zero: bool = True
    """Whether its curve's axis starts at 0."""
    has_healthy_value: bool = False
    """Whether 1/√d is its healthy value, drawn as a dashed line."""
    summary: str = ""
    """Its name in the report's summary, a format string of `healthy` (1/√d); empty: not shown."""
    number: str = "{:,}"
    """Its value in the report's summary."""

    def on_console(self, value: float, healthy_std: float) -> str:
        """Return the key's part of a line on the console; `healthy_std` is 1/√d."""
        return self.console.format(value=value, rate=rate_text(value), share=value / healthy_std)


@dataclass(frozen=True, kw_only=True)
class Record:
    """One line. Keys that were not measured (None) are omitted."""

    step: Annotated[int, Metric("steps", summary="Steps")]
    """Steps since the start of the run."""
    epoch: Annotated[float, Metric("epochs", "epoch {value:.2f}")]
    """Epochs since the start of the run: step / steps per epoch."""
    loss: Annotated[
        float | None,
        Metric(
            "", "loss {value:.4f}", curve="loss (−1 is the optimum)", from_zero=False,
            summary="Loss (−1 is the optimum)", number="{:.4f}",
        ),
    ] = None  # fmt: skip
    """Symmetric negative cosine, −1 … 1: mean over the steps since the line before."""
    output_std: Annotated[
        float | None,
        Metric(
            "", "std {share:.2f}/√d", curve="output std (dashed: 1/√d)", has_healthy_value=True,
            summary="Output std (healthy: 1/√d = {healthy:.4f})", number="{:.4f}",
        ),
    ] = None  # fmt: skip
    """Spread of the normalised outputs, mean since the line before: 1/√d is healthy, 0 collapsed."""
    images_per_second: Annotated[float | None, Metric("images/s", "{rate} images/s", 1, curve="images/s")] = None
    """Source images per second of all processes, without pauses for evaluation and saving."""
    views_per_second: Annotated[float | None, Metric("views/s", "{rate} views/s", 1)] = None
    """Augmented views per second: two of each image."""
    wait_percent: Annotated[float | None, Metric("%", "wait {value:.0f} %", 1, curve="waiting for data, %")] = None
    """Share of the time in which the step waited for its crops."""
    learning_rate: Annotated[float | None, Metric("", "lr {value:.4g}", curve="learning rate", from_zero=False)] = None
    """Learning rate of encoder and projector."""
    predictor_learning_rate: Annotated[float | None, Metric()] = None
    """Learning rate of the predictor."""
    gpu_memory_gib: Annotated[float | None, Metric("GiB", "GPU {value:.1f} GiB", 1)] = None
    """Peak of the GPU memory that PyTorch has allocated."""
    loss_scale: Annotated[float | None, Metric()] = None
    """Factor that the loss is scaled by in fp16."""
    skipped_steps: Annotated[int | None, Metric("steps", summary="Steps skipped (gradient not finite)")] = None
    """Steps skipped since the start of the run, because a gradient was not finite."""
    collapsed_steps: Annotated[int | None, Metric("steps", summary="Steps since the output was last healthy")] = None
    """Steps since the output was last healthy: 0 unless it has collapsed."""
    replaced_images: Annotated[
        int | None,
        Metric("images", "broken images replaced: {value:,}", 2, summary="Broken images replaced by the next good one"),
    ] = None
    """Broken images since the start of the run, each replaced by the next good one."""
    augment_ms: Annotated[float | None, Metric("ms")] = None
    """Augmentation in the last step before the line."""
    forward_ms: Annotated[float | None, Metric("ms")] = None
    """Forward pass and loss in that step."""
    backward_ms: Annotated[float | None, Metric("ms")] = None
    """Backward pass in that step."""
    optimizer_ms: Annotated[float | None, Metric("ms")] = None
    """Update of the weights in that step."""
    knn: Annotated[float | None, Metric("", curve="kNN accuracy", summary="kNN accuracy", number="{:.2%}")] = None
    """Accuracy of a k-nearest-neighbour classifier, 0 … 1; on a line of its own."""

    def line(self) -> dict[str, Any]:
        """Return the measured values, ready for JSON, in the order of the fields."""
        values = ((field.name, getattr(self, field.name)) for field in fields(self))
        return {name: value for name, value in values if value is not None}


METRICS: dict[str, Metric] = {
    name: hint.__metadata__[0] for name, hint in get_type_hints(Record, include_extras=True).items()
}
"""How each key is shown, in the order of a line."""


def metrics_table() -> str:
    """Return the keys of a line with unit and meaning as a table in Markdown."""
    meanings = field_docstrings(Record)
    rows = [f"| `{name}` | {metric.unit} | {' '.join(meanings[name].split())} |" for name, metric in METRICS.items()]
    return "\n".join(["| key | unit | meaning |", "|---|---|---|", *rows]) + "\n"
