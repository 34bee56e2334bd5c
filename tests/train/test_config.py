import math
from pathlib import Path

import pytest
import yaml

from simsiam.pipeline.augmentation import Augmentation
from simsiam.pipeline.errors import UsageError
from simsiam.train.config import (
    CheckpointConfig,
    DataConfig,
    HealthConfig,
    KnnConfig,
    LogConfig,
    ModelConfig,
    OptimizerConfig,
    PretrainConfig,
    identity_differences,
    to_tree,
)
from simsiam.train.recipe import load_config, recipe_file
from simsiam.train.terminal import arguments


def parse(*options: str) -> PretrainConfig:
    return arguments.parse(PretrainConfig(), options, prog="test")


def test_options_override_a_recipe() -> None:
    options = "--data.path a/b --optimizer.base-lr 0.1 --batch-size 512 --model.no-zero-init-residual --data.workers 3"
    config = arguments.parse(load_config(recipe_file("imagenet-resnet50")), options.split(), prog="test")
    assert config.data.path == Path("a/b")
    assert (config.optimizer.base_lr, config.batch_size, config.data.workers) == (0.1, 512, 3)
    assert config.model.zero_init_residual is False
    # What is not named stays as in the recipe.
    assert (config.epochs, config.optimizer.weight_decay, config.model.arch) == (100, 1e-4, "resnet50")


def test_lists_and_nones_can_be_overridden() -> None:
    config = parse(
        "--augmentation.crop-scale",
        "0.08",
        "1",
        "--data.mean",
        "0.5",
        "0",
        "1e-3",
        "--max-steps",
        "None",
        "--health.collapse-loss",
        "-0.5",
    )
    assert config.augmentation.crop_scale == (0.08, 1.0)
    assert config.data.mean == (0.5, 0.0, 0.001)
    assert config.health.collapse_loss == -0.5
    assert config.max_steps is None


def test_options_that_every_training_command_has() -> None:
    words = "--run-dir r --data.path p --data.backend torch --seed 1 --epochs 2 --batch-size 4 --max-steps 5"
    config = parse(*words.split(), "--resume", "auto", "--device", "cpu", "--deterministic")
    assert (config.run_dir, config.data.path, config.data.backend) == (Path("r"), Path("p"), "torch")
    assert (config.seed, config.epochs, config.batch_size, config.max_steps) == (1, 2, 4, 5)
    assert (config.resume, config.device, config.deterministic) == ("auto", "cpu", True)


def test_tree_is_plain() -> None:
    tree = to_tree(parse("--data.path", "p"))
    assert tree["data"]["path"] == "p"
    assert tree["data"]["mean"] == [0.485, 0.456, 0.406]
    assert yaml.safe_load(yaml.safe_dump(tree)) == tree


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ("--epoch 3", "There is no option --epoch; did you mean --epochs? test --help lists them."),
        ("--data.paht 3", "There is no option --data.paht; did you mean --data.path?"),
        (
            "--accumulate-steps 4",
            "There is no option --accumulate-steps. Batches are not accumulated, since",
        ),
        ("--gradient-accumulation=4", "There is no option --gradient-accumulation. Batches are not accumulated"),
        ("--data.backend dally", 'Invalid value "dally" for --data.backend. Choose from: "auto", '),
        ("--device gpu", 'Invalid value "gpu" for --device. Choose from: "auto", "cpu", "cuda".'),
        ("--checkpoint.keep 1", "checkpoint.keep is 1; give 2 or more"),
    ],
)
def test_mistake_on_the_command_line_is_told_with_the_option(options: str, said: str) -> None:
    with pytest.raises(UsageError) as refusal:
        parse(*options.split())
    assert str(refusal.value).startswith(said)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: PretrainConfig(epochs=0), "epochs is 0; give 1 or more"),
        (lambda: PretrainConfig(batch_size=1), "batch_size is 1; batch norm needs at least 2"),
        (lambda: PretrainConfig(max_steps=0), "max_steps is 0; give 1 or more"),
        (lambda: PretrainConfig(seed=-1), "seed is -1; give a whole number"),
        (lambda: PretrainConfig(seed=2**63), "seed is 9223372036854775808; give a whole number"),
        (
            lambda: PretrainConfig(knn=KnnConfig(Path("a"), Path("a"), short_side=223)),
            "knn.short_side is 223, less than data.size, 224",
        ),
        (lambda: PretrainConfig(recompute=True, compile="default"), "recompute and compile default exclude each other"),
        (lambda: DataConfig(size=7), "data.size is 7; give a view of at least 8"),
        (lambda: DataConfig(workers=-1), "data.workers is -1; give 0 or more"),
        (lambda: DataConfig(mean=(0, math.nan, 0)), "data.mean is .*nan"),
        (lambda: DataConfig(mean=(123.7, 116.3, 103.5)), "data.mean is .*123.7.*by 255"),
        (lambda: DataConfig(mean=(-0.1, 0, 0)), "data.mean is .*-0.1"),
        (lambda: DataConfig(std=(1, math.inf, 1)), "data.std is .*inf"),
        (lambda: DataConfig(std=(1, math.nan, 1)), "data.std is .*nan"),
        (lambda: DataConfig(std=(58.4, 57.1, 57.4)), "data.std is .*58.4.*by 255"),
        (lambda: DataConfig(hw_decoder_load=math.nan), "data.hw_decoder_load is nan; give a share"),
        (lambda: DataConfig(std=(1, 0, 1)), "data.std is .*above 0"),
        (lambda: ModelConfig(projection_dim=0), "model.projection_dim is 0; give 1 or more"),
        (lambda: ModelConfig(prediction_hidden=0), "model.prediction_hidden is 0; give 1 or more"),
        (lambda: OptimizerConfig(base_lr=-0.1), "optimizer.base_lr is -0.1; give a number above 0"),
        (lambda: OptimizerConfig(base_lr=math.nan), "optimizer.base_lr is nan; give a number above 0"),
        (lambda: OptimizerConfig(base_lr=math.inf), "optimizer.base_lr is inf; give a number above 0"),
        (lambda: OptimizerConfig(weight_decay=math.nan), "optimizer.weight_decay is nan; give 0 or more"),
        (lambda: OptimizerConfig(base_lr=0.0), "optimizer.base_lr is 0.0; give a number above 0"),
        (
            lambda: PretrainConfig(epochs=2, optimizer=OptimizerConfig(warmup_epochs=2)),
            "optimizer.warmup_epochs is 2 and epochs 2; give fewer",
        ),
        (lambda: OptimizerConfig(weight_decay=1), "optimizer.weight_decay is 1; give 0 or more, below 1"),
        (lambda: OptimizerConfig(momentum=-1), "optimizer.momentum is -1; give 0 or more"),
        (lambda: OptimizerConfig(momentum=1.5), "optimizer.momentum is 1.5; give 0 or more, below 1"),
        (lambda: OptimizerConfig(momentum=math.nan), "optimizer.momentum is nan"),
        (lambda: OptimizerConfig(warmup_epochs=-1), "optimizer.warmup_epochs is -1; give 0 or more"),
        (lambda: KnnConfig(train=Path("a")), "knn.train and knn.test go together"),
        (lambda: KnnConfig(k=0), "knn.k is 0.*must be positive"),
        (lambda: KnnConfig(every_epochs=-1), "knn.every_epochs is -1; give 0 or more"),
        (lambda: KnnConfig(temperature=math.nan), "knn.temperature nan; both must be positive"),
        (lambda: KnnConfig(temperature=0), "knn.temperature 0; both must be positive"),
        (lambda: LogConfig(every_steps=0), "log.every_steps is 0; give 1 or more"),
        (lambda: CheckpointConfig(every_epochs=0), "checkpoint.every_epochs must be 1 or more"),
        (lambda: CheckpointConfig(keep=1), "checkpoint.keep is 1; give 2 or more"),
        (lambda: CheckpointConfig(every_minutes=-1), "checkpoint.every_minutes is -1; give 0 or more"),
        (lambda: CheckpointConfig(every_minutes=math.nan), "checkpoint.every_minutes is nan; give 0 or more"),
        (lambda: CheckpointConfig(every_epochs=2, keep_every_epochs=3), "keep_every_epochs is 3; .* multiple of .* 2"),
        (lambda: HealthConfig(collapse_std=2), "health.collapse_std is 2; give a share"),
        (lambda: HealthConfig(collapse_std=math.nan), "health.collapse_std is nan; give a share"),
        (lambda: HealthConfig(collapse_loss=1), "health.collapse_loss is 1; give a loss from -1 to 0"),
        (lambda: HealthConfig(collapse_steps=0), "health.collapse_steps is 0; give 1 or more"),
        (lambda: Augmentation(crop_scale=(1.0, 0.2)), "augmentation.crop_scale is 1.0, 0.2; give two positive"),
    ],
)
def test_setting_that_cannot_work_is_refused(make, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        make()


@pytest.mark.parametrize(
    ("option", "difference"),
    [
        ("--epochs=7", "epochs was 100, now 7"),
        ("--batch-size=8", "batch_size was 256, now 8"),
        ("--seed=1", "seed was 0, now 1"),
        ("--precision=fp32", "precision was auto, now fp32"),
        ("--model.stem=cifar", "model.stem was imagenet, now cifar"),
        ("--augmentation.hue=0.2", "augmentation.hue was 0.1, now 0.2"),
        ("--optimizer.no-fixed-predictor-lr", "optimizer.fixed_predictor_lr was True, now False"),
        ("--data.size=64", "data.size was 224, now 64"),
    ],
)
def test_what_decides_the_result_may_not_change(option: str, difference: str) -> None:
    assert identity_differences(to_tree(PretrainConfig()), to_tree(parse(option))) == [difference]


def test_what_does_not_decide_the_result_may_change() -> None:
    options = "--run-dir r --resume auto --max-steps 3 --data.path p --data.workers 2 --data.backend torch --device cpu"
    other = "--log.every-steps 3 --checkpoint.keep 5 --knn.every-epochs 1 --deterministic --recompute --cuda-graph"
    changed = parse(*options.split(), *other.split())
    assert identity_differences(to_tree(PretrainConfig()), to_tree(changed)) == []
