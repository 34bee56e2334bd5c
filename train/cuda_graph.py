"""CUDA graph of a training step: the whole step is launched at once instead of kernel by kernel."""

from collections.abc import Callable

import torch

from simsiam.pipeline.augmentation import Draws
from simsiam.pipeline.crops import Crops
from simsiam.pipeline.errors import UsageError
from simsiam.train.config import PretrainConfig
from simsiam.train.loss import StepOutput

_EAGER_STEPS = 3  # PyTorch's documentation asks for a few before a capture, 11 with DistributedDataParallel


def check_cuda_graph(config: PretrainConfig, device: torch.device, world_size: int) -> None:
    """Raise UsageError if `cuda_graph` is set, but the device, the compiler mode or several processes rule it out."""
    if not config.cuda_graph:
        return
    if device.type != "cuda":
        raise UsageError("A CUDA graph needs a GPU; do without it on a CPU.", argument="cuda_graph")
    if config.compile == "max-autotune":
        raise UsageError(
            "cuda_graph and compile max-autotune, which captures graphs itself, exclude each other; choose one of them."
        )
    if world_size > 1:
        raise UsageError("A CUDA graph is for one process; do without it under torchrun.", argument="cuda_graph")


class GraphedStep:
    """Captures a step with its forward pass, backward pass and update, and replays it on each batch.

    The first steps of a run are taken eagerly, on the stream of the capture, to load and tune the kernels, which a
    capture may not do. They are steps of the training, and a capture computes nothing, so no weights, momenta, running
    statistics or generators need to be restored. Learning rates would be constants of the graph; while it is captured
    they are tensors on the device, which each replay overwrites. Everything else that a step reads or writes must keep
    its address; a step must not wait for the device.

    After https://docs.pytorch.org/docs/stable/notes/cuda.html#cuda-graphs. Off by default until it has been measured.
    """

    def __init__(self, step: Callable[[Crops], StepOutput], optimizer: torch.optim.Optimizer) -> None:
        self._step, self._optimizer = step, optimizer
        self._stream = torch.cuda.Stream()
        self._eager_steps = _EAGER_STEPS
        self._crops: Crops | None = None
        self._graph: torch.cuda.CUDAGraph | None = None
        self._rates: list[torch.Tensor] = []

    def __call__(self, crops: Crops) -> StepOutput:
        """Take a step; what it returns holds until the next one."""
        if self._eager_steps:
            self._eager_steps -= 1
            return self._take_eagerly(crops)
        if self._crops is None:
            self._crops = _copied(crops)
        else:
            for static, values in zip(_tensors(self._crops), _tensors(crops), strict=True):
                static.copy_(values, non_blocking=True)
        if self._graph is None:
            self._graph = self._capture(self._crops)
        for rate, group in zip(self._rates, self._optimizer.param_groups, strict=True):
            rate.fill_(group["lr"])
        self._graph.replay()
        return self._output

    def _take_eagerly(self, crops: Crops) -> StepOutput:
        self._stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self._stream):
            output = self._step(crops)
        torch.cuda.current_stream().wait_stream(self._stream)
        return output

    def _capture(self, crops: Crops) -> torch.cuda.CUDAGraph:
        graph, groups = torch.cuda.CUDAGraph(), self._optimizer.param_groups
        rates = [group["lr"] for group in groups]
        self._rates = [torch.tensor(rate, device=crops.pixels.device) for rate in rates]
        for group, tensor in zip(groups, self._rates, strict=True):
            group["lr"] = tensor
        # Only this thread is checked for forbidden calls: a loader's threads may allocate and copy meanwhile.
        with torch.cuda.graph(graph, stream=self._stream, capture_error_mode="thread_local"):
            self._output = self._step(crops)
        for group, rate in zip(groups, rates, strict=True):
            group["lr"] = rate
        return graph


def _copied(crops: Crops) -> Crops:
    draws = Draws(*(numbers.clone() for numbers in crops.draws))
    return Crops(crops.pixels.clone(), draws, crops.index.clone(), crops.label.clone())


def _tensors(crops: Crops) -> list[torch.Tensor]:
    return [crops.pixels, *crops.draws, crops.index, crops.label]
