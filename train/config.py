"""Configuration of a run: frozen dataclasses that check their values; NaN and infinities are never accepted."""

import dataclasses
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal

from simsiam.pipeline.augmentation import Augmentation
from simsiam.pipeline.crops import Backend
from simsiam.pipeline.errors import UsageError
from simsiam.pipeline.order import Order
from simsiam.pipeline.plan import OnBroken

DeviceName = Literal["auto", "cpu", "cuda"]
PrecisionName = Literal["auto", "bf16", "fp16", "tf32", "fp32"]
Architecture = Literal["resnet18", "resnet34", "resnet50", "resnet101"]
Stem = Literal["imagenet", "cifar"]
Compilation = Literal["off", "default", "max-autotune"]


@dataclass(frozen=True)
class ModelConfig:
    """The network (arXiv 2011.10566, section 3 and appendix A)."""

    arch: Architecture = "resnet50"
    """Encoder."""
    stem: Stem = "imagenet"
    """First layers: 7×7 stride 2 and max-pooling, or 3×3 stride 1 for images of about 32 pixels."""
    zero_init_residual: bool = True
    """Start every residual block as the identity, as the reference does; see `simsiam.model.resnet`."""
    projector_layers: Literal[2, 3] = 3
    """Layers of the projection MLP; the paper has 3 on ImageNet and 2 on CIFAR-10."""
    projection_dim: int = 2048
    """Width of the projection and of the prediction."""
    prediction_hidden: int = 512
    """Hidden width of the predictor; a quarter of the projection's in the paper."""

    def __post_init__(self) -> None:
        for name in ("projection_dim", "prediction_hidden"):
            if getattr(self, name) < 1:
                raise UsageError(f"model.{name} is {getattr(self, name)}; give 1 or more.")


@dataclass(frozen=True)
class DataConfig:
    """The images to train on."""

    path: Path | None = None
    """Folder of images, or .beton file. Labels are never used for training."""
    size: int = 224
    """Height and width of a view in pixels."""
    backend: Backend = "auto"
    """What decodes and crops; `auto` chooses and says why."""
    workers: int | None = None
    """Loader processes (torch) or threads (ffcv, dali); by default one for each core this program may use."""
    order: Order = "random"
    """Order of an epoch: `random`, or `block`, which reads a file larger than memory nearly in sequence."""
    on_broken: OnBroken = "error"
    """An image that can't be decoded ends the run, or the next good one takes its place (`replace`)."""
    hw_decoder_load: float = 0.65
    """Share of the JPEGs that dali gives to a GPU's hardware decoder, 0 to 1."""
    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    """Mean of red, green and blue on a scale of 0 to 1, subtracted from each view."""
    std: tuple[float, float, float] = (0.229, 0.224, 0.225)
    """Standard deviation of red, green and blue that each view is divided by."""

    def __post_init__(self) -> None:
        if self.size < 8:
            raise UsageError(f"data.size is {self.size}; give a view of at least 8 pixels.")
        if self.workers is not None and self.workers < 0:
            raise UsageError(f"data.workers is {self.workers}; give 0 or more.")
        if not 0 <= self.hw_decoder_load <= 1:
            raise UsageError(f"data.hw_decoder_load is {self.hw_decoder_load}; give a share from 0 to 1.")
        scale = "on a scale where black is 0 and white 1; divide numbers meant for 0 to 255 by 255"
        if not all(0 <= each <= 1 for each in self.mean):
            raise UsageError(f"data.mean is {self.mean}; give three numbers from 0 to 1, {scale}.")
        if not all(0 < each <= 1 for each in self.std):
            raise UsageError(f"data.std is {self.std}; give three numbers above 0, at most 1, {scale}.")


@dataclass(frozen=True)
class OptimizerConfig:
    """SGD with momentum and a cosine schedule, stepped once an epoch."""

    base_lr: float = 0.05
    """Learning rate for a global batch of 256; it grows in proportion to the batch."""
    momentum: float = 0.9
    """Momentum of SGD."""
    weight_decay: float = 1e-4
    """Weight decay, on every parameter as in the reference, batch norm and biases included."""
    fixed_predictor_lr: bool = True
    """Keep the predictor's learning rate at its first value (68.1 against 67.7 in the paper's table 1)."""
    warmup_epochs: int = 0
    """Epochs of linear warm-up; the paper uses 10 for batches of 1024 and more."""

    def __post_init__(self) -> None:
        if not 0 < self.base_lr < math.inf:
            raise UsageError(f"optimizer.base_lr is {self.base_lr}; give a number above 0.")
        for name in ("momentum", "weight_decay"):
            if not 0 <= getattr(self, name) < 1:
                raise UsageError(f"optimizer.{name} is {getattr(self, name)}; give 0 or more, below 1.")
        if self.warmup_epochs < 0:
            raise UsageError(f"optimizer.warmup_epochs is {self.warmup_epochs}; give 0 or more.")


@dataclass(frozen=True)
class KnnConfig:
    """The k-nearest-neighbour monitor: accuracy of the frozen encoder on labelled images."""

    train: Path | None = None
    """Labelled images among which neighbours are searched; folder or .beton. None: no monitor."""
    test: Path | None = None
    """Labelled images to classify; folder or .beton."""
    every_epochs: int = 0
    """Epochs between two measurements; 0: only before the first epoch and after the last."""
    k: int = 200
    """Neighbours that vote."""
    temperature: float = 0.1
    """A vote weighs exp(cosine similarity / temperature)."""
    short_side: int | None = None
    """Resize the shorter side to this many pixels before the centre crop; by default 256/224 of the view's size."""

    def __post_init__(self) -> None:
        if (self.train is None) != (self.test is None):
            raise UsageError("knn.train and knn.test go together; give both or neither.")
        if self.every_epochs < 0:
            raise UsageError(f"knn.every_epochs is {self.every_epochs}; give 0 or more.")
        if self.k < 1 or not 0 < self.temperature < math.inf:
            raise UsageError(f"knn.k is {self.k}, knn.temperature {self.temperature}; both must be positive.")


@dataclass(frozen=True)
class LogConfig:
    """What the run reports."""

    every_steps: int = 50
    """Steps between two lines of metrics.jsonl; each line holds means over them."""
    tensorboard: bool = True
    """Also write TensorBoard files."""
    wandb: str | None = None
    """Also send the metrics to this project of Weights & Biases; with WANDB_MODE=offline they stay here."""

    def __post_init__(self) -> None:
        if self.every_steps < 1:
            raise UsageError(f"log.every_steps is {self.every_steps}; give 1 or more.")


@dataclass(frozen=True)
class CheckpointConfig:
    """When the run is saved. It is always saved at its end and when it is interrupted."""

    every_epochs: int = 1
    """Epochs between two checkpoints."""
    every_steps: int = 0
    """Steps between two checkpoints inside an epoch; 0: none."""
    every_minutes: float = 30.0
    """Also save when the last checkpoint is this many minutes old; 0: never by the clock."""
    keep: int = 3
    """Checkpoints that are kept, the newest ones; older ones are deleted."""
    keep_every_epochs: int = 0
    """Epochs between two checkpoints that are kept however old they are; 0: none."""

    def __post_init__(self) -> None:
        if self.every_epochs < 1 or self.every_steps < 0:
            raise UsageError("checkpoint.every_epochs must be 1 or more, checkpoint.every_steps 0 or more.")
        if not 0 <= self.every_minutes < math.inf:
            raise UsageError(f"checkpoint.every_minutes is {self.every_minutes}; give 0 or more.")
        if self.keep < 2:
            raise UsageError(f"checkpoint.keep is {self.keep}; give 2 or more, since a crash may damage the newest.")
        if self.keep_every_epochs < 0 or self.keep_every_epochs % self.every_epochs:
            raise UsageError(
                f"checkpoint.keep_every_epochs is {self.keep_every_epochs};"
                f" give 0 or a multiple of checkpoint.every_epochs, {self.every_epochs}."
            )


@dataclass(frozen=True)
class HealthConfig:
    """What to do when the training goes wrong."""

    on_nonfinite: Literal["skip", "stop"] = "skip"
    """A step whose gradient is not finite changes no weight; `skip` counts it and continues, `stop` ends the run."""
    on_collapse: Literal["warn", "stop", "ignore"] = "warn"
    """What to do when all images look the same to the encoder for `collapse_steps` steps."""
    collapse_std: float = 0.2
    """The output has collapsed when its spread is below this share of 1/√d (arXiv 2011.10566, figure 2: 0) …"""
    collapse_loss: float = -0.999
    """… or when the loss is below this: −1 is reached when both views of each image give the same output."""
    collapse_steps: int = 500
    """Steps for which this must last, without a better line of metrics.jsonl in between."""

    def __post_init__(self) -> None:
        if not 0 <= self.collapse_std <= 1:
            raise UsageError(f"health.collapse_std is {self.collapse_std}; give a share of 1/√d from 0 to 1.")
        if not -1 <= self.collapse_loss <= 0:
            raise UsageError(f"health.collapse_loss is {self.collapse_loss}; give a loss from -1 to 0.")
        if self.collapse_steps < 1:
            raise UsageError(f"health.collapse_steps is {self.collapse_steps}; give 1 or more.")


@dataclass(frozen=True)
class PretrainConfig:
    """Pretrain an encoder with SimSiam (arXiv 2011.10566)."""

    run_dir: Path | None = None
    """Folder for everything the run writes; by default runs/RECIPE."""
    resume: str = "never"
    """`auto`: resume from the newest checkpoint in the run folder, if any; `never`; or a checkpoint or a run folder."""
    init_from: Path | None = None
    """Start a new run from the weights of this model: a run folder, a checkpoint, or another program's file of a
    ResNet. Step, optimizer and schedule start anew."""
    epochs: int = 100
    """Epochs; the learning rate falls to 0 over them."""
    batch_size: int = 256
    """Images in a step, over all devices."""
    max_steps: int | None = None
    """Stop after this many steps, whatever the epochs."""
    seed: int = 0
    """Seed of weights, order and augmentation."""
    device: DeviceName = "auto"
    """Where to train; `auto` takes the GPU if there is one."""
    precision: PrecisionName = "auto"
    """Arithmetic of the network; `auto`: bf16 on a GPU, fp16 on one that lacks it, fp32 on a CPU. The loss is fp32."""
    compile: Compilation = "off"
    """Compile the network with torch.compile."""
    cuda_graph: bool = False
    """Capture the whole step once and replay it on the GPU: for small networks, whose launches take the longest."""
    fused_batch_norm: Literal["auto", "on", "off"] = "auto"
    """Batch norm, sum and ReLU of the encoder as one operation; `auto`: on a CPU, uncompiled, where it was measured."""
    recompute: bool = False
    """Activation checkpointing: recompute activations in the backward pass, for a batch too large for the GPU."""
    deterministic: bool = False
    """Use only deterministic operations on a GPU, slower; on a CPU runs repeat bit for bit with as many threads."""
    model: ModelConfig = field(default_factory=ModelConfig)
    data: DataConfig = field(default_factory=DataConfig)
    augmentation: Augmentation = field(default_factory=Augmentation)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    knn: KnnConfig = field(default_factory=KnnConfig)
    log: LogConfig = field(default_factory=LogConfig)
    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig)
    health: HealthConfig = field(default_factory=HealthConfig)

    # Options that are deliberately not offered, by name prefix, with the reason.
    DECLINED: ClassVar[Mapping[str, str]] = {
        prefix: "Batches are not accumulated, since batch norm would see only a part of each: that is another training,"
        " not a larger batch. If batch_size does not fit into the GPU, set recompute."
        for prefix in ("accumulat", "gradient_accumulat", "grad_accum")
    }

    def __post_init__(self) -> None:
        if self.epochs < 1:
            raise UsageError(f"epochs is {self.epochs}; give 1 or more.")
        if self.optimizer.warmup_epochs >= self.epochs:
            raise UsageError(
                f"optimizer.warmup_epochs is {self.optimizer.warmup_epochs} and epochs {self.epochs};"
                " give fewer epochs of warm-up than epochs."
            )
        if self.recompute and self.compile != "off":
            raise UsageError(
                f"recompute and compile {self.compile} exclude each other, since a compiled network decides itself what"
                " it recomputes; choose one of them."
            )
        if self.init_from is not None and self.resume not in ("never", "auto"):
            raise UsageError(
                f"init_from {self.init_from} starts a new run, resume {self.resume} continues one; give one of them."
            )
        if self.batch_size < 2:
            raise UsageError(f"batch_size is {self.batch_size}; batch norm needs at least 2 images.")
        if self.max_steps is not None and self.max_steps < 1:
            raise UsageError(f"max_steps is {self.max_steps}; give 1 or more, or None.")
        if not 0 <= self.seed < 2**63:
            raise UsageError(f"seed is {self.seed}; give a whole number from 0 to 2**63 − 1.")
        short_side = self.knn.short_side
        if self.knn.train is not None and short_side is not None and short_side < self.data.size:
            raise UsageError(
                f"knn.short_side is {short_side}, less than data.size, {self.data.size}; give at least that."
            )


# What a resumed run must share with the run it resumes; the rest (paths, workers, logging, …) may change.
_IDENTITY = ("epochs", "batch_size", "seed", "precision", "model", "augmentation", "optimizer")
_DATA_IDENTITY = ("size", "order", "mean", "std")


def to_tree(config: Any) -> dict[str, Any]:
    """Return a configuration as plain dicts, lists, numbers and strings, ready for YAML or JSON."""

    def plain(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: plain(item) for key, item in value.items()}
        if isinstance(value, (list, tuple)):
            return [plain(item) for item in value]
        return str(value) if isinstance(value, Path) else value

    return plain(dataclasses.asdict(config))


def identity_differences(saved: Mapping[str, Any], current: Mapping[str, Any]) -> list[str]:
    """Return the differences of two configurations, as trees, in what decides a run's result: one phrase each."""

    def decisive(tree: Mapping[str, Any]) -> dict[str, Any]:
        flat = dict(flatten({key: tree[key] for key in _IDENTITY if key in tree}))
        return flat | {f"data.{key}": tree["data"][key] for key in _DATA_IDENTITY}

    was, now = decisive(saved), decisive(current)
    return [f"{key} was {was.get(key)}, now {now.get(key)}" for key in now if was.get(key) != now.get(key)]


def flatten(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the dotted keys of a tree, such as `data.path`, with their values."""
    for key, value in tree.items():
        if isinstance(value, Mapping):
            yield from flatten(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value
