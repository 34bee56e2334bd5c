import ast
import json
from pathlib import Path

import pytest

from simsiam.train.field_docstrings import field_docstrings
from simsiam.train.run.record import METRICS, Record, metrics_table
from simsiam.train.step import STAGES

ROOT = Path(__file__).parents[3]


def test_a_line_holds_what_was_measured_in_the_order_of_the_fields() -> None:
    record = Record(knn=0.25, step=5, epoch=0.5, loss=-0.0)
    assert json.dumps(record.line()) == '{"step": 5, "epoch": 0.5, "loss": -0.0, "knn": 0.25}'


def test_zero_is_measured() -> None:
    assert Record(step=0, epoch=0.0, wait_percent=0.0, collapsed_steps=0).line() == {
        "step": 0,
        "epoch": 0.0,
        "wait_percent": 0.0,
        "collapsed_steps": 0,
    }


def test_every_key_has_a_meaning_and_every_stage_a_key() -> None:
    meanings = field_docstrings(Record)
    assert list(METRICS) == list(meanings) and all(meanings.values())
    assert {f"{stage}_ms" for stage in STAGES} <= METRICS.keys()


def test_the_readme_lists_the_keys_as_they_are_defined() -> None:
    assert metrics_table() in (ROOT / "train" / "README.md").read_text()


@pytest.mark.parametrize(
    ("key", "value", "shown"),
    [
        ("loss", -0.61234, "loss -0.6123"),
        ("output_std", 0.11, "std 1.10/√d"),
        ("images_per_second", 1234.0, "1,234 images/s"),
        ("images_per_second", 4.24, "4.2 images/s"),
        ("gpu_memory_gib", 12.34, "GPU 12.3 GiB"),
    ],
)
def test_values_on_the_console(key: str, value: float, shown: str) -> None:
    assert METRICS[key].on_console(value, healthy_std=0.1) == shown


def test_console_curves_and_trackers_spell_no_key() -> None:
    """Console, curves and trackers derive from the record."""
    named = {}
    for file in ("train/terminal/console.py", "train/run/plots.py", "train/run/trackers.py"):
        strings = {
            node.value for node in ast.walk(ast.parse((ROOT / file).read_text())) if isinstance(node, ast.Constant)
        }
        named[file] = strings & (METRICS.keys() - {"step", "epoch"})
    assert not any(named.values()), named
