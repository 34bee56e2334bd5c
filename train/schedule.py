"""Learning-rate schedule: linear warm-up, then a cosine to 0, stepped once an epoch."""

import math


def initial_learning_rate(base_lr: float, batch_size: int) -> float:
    """Scale the base rate to the global batch: base_lr × batch_size / 256 (arXiv 2011.10566, section 3)."""
    return base_lr * batch_size / 256


def learning_rate(initial: float, epoch: int, epochs: int, warmup_epochs: int = 0) -> float:
    """Return the rate of one epoch, counted from 0.

    initial · ½ (1 + cos(π e / E)); the last epoch's rate is above 0, as in the reference. During warm-up the rate rises
    linearly to `initial`, and the cosine spans the remaining epochs.
    """
    if epoch < warmup_epochs:
        return initial * (epoch + 1) / warmup_epochs
    return initial * 0.5 * (1 + math.cos(math.pi * (epoch - warmup_epochs) / (epochs - warmup_epochs)))
