"""Optimizer: SGD over two groups of parameters, encoder with projector and predictor, with a rate each."""

import torch

from simsiam.model.simsiam import SimSiam
from simsiam.train.config import OptimizerConfig
from simsiam.train.schedule import initial_learning_rate, learning_rate


def make_optimizer(model: SimSiam, config: OptimizerConfig, batch_size: int) -> torch.optim.SGD:
    """Return SGD with weight decay on every parameter; group 0 is encoder and projector, group 1 the predictor.

    It is the fused one: the same bits as parameter by parameter, and the only one that can skip a step or unscale its
    gradients by a value on the device (see `NonfiniteGuard`).
    """
    return torch.optim.SGD(
        [
            {"params": [*model.encoder.parameters(), *model.projector.parameters()]},
            {"params": list(model.predictor.parameters())},
        ],
        lr=initial_learning_rate(config.base_lr, batch_size),
        momentum=config.momentum,
        weight_decay=config.weight_decay,
        fused=True,
    )


def set_learning_rate(
    optimizer: torch.optim.Optimizer, config: OptimizerConfig, batch_size: int, epoch: int, epochs: int
) -> float:
    """Set both groups' rates for one epoch and return the encoder's.

    The predictor's stays at its first value when `fixed_predictor_lr` is set: it should adapt to the latest
    representations (arXiv 2011.10566, section 4.2 and table 1).
    """
    initial = initial_learning_rate(config.base_lr, batch_size)
    rate = learning_rate(initial, epoch, epochs, config.warmup_epochs)
    optimizer.param_groups[0]["lr"] = rate
    optimizer.param_groups[1]["lr"] = initial if config.fixed_predictor_lr else rate
    return rate
