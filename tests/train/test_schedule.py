import math

import pytest

from simsiam.train.recipe import load_config, recipe_file, recipe_names
from simsiam.train.schedule import initial_learning_rate, learning_rate


@pytest.mark.parametrize(
    ("base_lr", "batch_size", "expected"),
    [(0.05, 256, 0.05), (0.05, 512, 0.1), (0.03, 512, 0.06), (0.05, 32, 0.00625), (0.05, 4096, 0.8)],
)
def test_rate_grows_with_the_batch(base_lr: float, batch_size: int, expected: float) -> None:
    assert initial_learning_rate(base_lr, batch_size) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("name", recipe_names())
def test_every_epoch_of_every_recipe(name: str) -> None:
    config = load_config(recipe_file(name))
    epochs, warm_up = config.epochs, config.optimizer.warmup_epochs
    initial = config.optimizer.base_lr * config.batch_size / 256
    # ½ (1 + cos 2x) = cos² x
    angles = [math.pi / 2 * epoch / (epochs - warm_up) for epoch in range(epochs - warm_up)]
    rising = [initial * (epoch + 1) / warm_up for epoch in range(warm_up)]
    expected = rising + [initial * math.cos(angle) ** 2 for angle in angles]
    rates = [learning_rate(initial, epoch, epochs, warm_up) for epoch in range(epochs)]
    assert rates == pytest.approx(expected, rel=1e-9)
    assert rates[warm_up] == initial == max(rates) and rates[-1] > 0


def test_published_epochs_by_hand() -> None:
    assert learning_rate(0.05, 50, 100) == pytest.approx(0.025, rel=1e-12)
    assert learning_rate(0.06, 200, 800) == pytest.approx(0.06 * (0.5 + math.sqrt(0.125)), rel=1e-12)
    assert learning_rate(0.05, 99, 100) == pytest.approx(1.2335999e-05, rel=1e-6)


def test_warm_up_rises_linearly_and_the_cosine_spans_the_rest() -> None:
    rates = [learning_rate(2.0, epoch, 8, warmup_epochs=4) for epoch in range(8)]
    assert rates == pytest.approx([0.5, 1.0, 1.5, 2.0, 2.0, 1 + math.sqrt(0.5), 1.0, 1 - math.sqrt(0.5)], rel=1e-12)


def test_warm_up_may_fill_the_run() -> None:
    assert [learning_rate(1.0, epoch, 2, warmup_epochs=2) for epoch in range(2)] == [0.5, 1.0]
