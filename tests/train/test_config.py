import re
from pathlib import Path

import pytest
import yaml

from simsiam.pipeline.draw import Augmentation
from simsiam.train.cli import run
from simsiam.train.config import (
    CheckpointConfig,
    DataConfig,
    KnnConfig,
    LogConfig,
    OptimizerConfig,
    PretrainConfig,
    identity_differences,
    load_config,
    parse_options,
    recipe_file,
    recipe_names,
    to_tree,
)


def recipe(name: str) -> PretrainConfig:
    return load_config(recipe_file(name))


def parse(*options: str) -> PretrainConfig:
    return parse_options(options, PretrainConfig(), prog="test")


def written(folder: Path, text: str) -> Path:
    file = folder / "settings.yaml"
    file.write_text(text)
    return file


def test_recipes_of_the_package() -> None:
    assert {"cifar10-resnet18", "custom", "demo", "imagenet-resnet50"} <= set(recipe_names())


@pytest.mark.parametrize("name", recipe_names())
def test_recipe_loads_and_says_where_it_is_from(name: str) -> None:
    assert isinstance(recipe(name), PretrainConfig)
    header = recipe_file(name).read_text().partition("\nepochs")[0]
    assert re.search(r"^# Source +\S", header, re.M) and re.search(r"^# Command +simsiam \S", header, re.M)


@pytest.mark.parametrize("name", recipe_names())
def test_command_in_a_recipe_is_understood(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    for command in re.findall(r"simsiam (pretrain .+)", recipe_file(name).read_text()):
        assert run([*command.split(), "--print-config"]) == 0, capsys.readouterr().err


def test_imagenet_recipe_is_the_published_one() -> None:
    # arXiv 2011.10566 §3, §4.1 and appendix A; mmpretrain simsiam_resnet50_8xb32-coslr-100e_in1k.py.
    config = recipe("imagenet-resnet50")
    assert (config.epochs, config.batch_size, config.max_steps) == (100, 256, None)
    optimizer = config.optimizer
    assert (optimizer.base_lr, optimizer.momentum, optimizer.weight_decay) == (0.05, 0.9, 1e-4)
    assert (optimizer.fixed_predictor_lr, optimizer.warmup_epochs) == (True, 0)
    model = config.model
    assert (model.arch, model.stem, model.zero_init_residual) == ("resnet50", "imagenet", True)
    assert (model.projector_layers, model.projection_dim, model.prediction_hidden) == (3, 2048, 512)
    assert config.data.size == 224
    assert config.data.mean == (0.485, 0.456, 0.406)
    assert config.data.std == (0.229, 0.224, 0.225)
    augmentation = config.augmentation
    assert augmentation.crop_scale == (0.2, 1.0)
    assert augmentation.crop_ratio == (3 / 4, 4 / 3)
    assert (augmentation.brightness, augmentation.contrast, augmentation.saturation) == (0.4, 0.4, 0.4)
    assert (augmentation.hue, augmentation.jitter_probability) == (0.1, 0.8)
    assert (augmentation.gray_probability, augmentation.flip_probability) == (0.2, 0.5)
    assert (augmentation.blur_probability, augmentation.blur_sigma) == (0.5, (0.1, 2.0))
    assert (config.knn.k, config.knn.temperature, config.knn.short_side) == (200, 0.07, None)


def test_cifar_recipe_is_the_published_one() -> None:
    # arXiv 2011.10566 appendix D; means and kNN of MoCo's CIFAR-10 notebook.
    config = recipe("cifar10-resnet18")
    assert (config.epochs, config.batch_size, config.max_steps) == (800, 512, None)
    optimizer = config.optimizer
    assert (optimizer.base_lr, optimizer.momentum, optimizer.weight_decay) == (0.03, 0.9, 5e-4)
    assert (optimizer.fixed_predictor_lr, optimizer.warmup_epochs) == (True, 0)
    model = config.model
    assert (model.arch, model.stem) == ("resnet18", "cifar")
    assert (model.projector_layers, model.projection_dim, model.prediction_hidden) == (2, 2048, 512)
    assert config.data.size == 32
    assert config.data.mean == (0.4914, 0.4822, 0.4465)
    assert config.data.std == (0.2023, 0.1994, 0.2010)
    # As on ImageNet, but for the blur.
    assert config.augmentation == Augmentation(blur_probability=0)
    assert (config.knn.k, config.knn.temperature, config.knn.short_side) == (200, 0.1, 32)


def test_default_augmentation_is_the_papers() -> None:
    assert recipe("imagenet-resnet50").augmentation == Augmentation()


def test_options_override_a_recipe() -> None:
    options = "--data.path a/b --optimizer.base-lr 0.1 --batch-size 512 --model.no-zero-init-residual --data.workers 3"
    config = parse_options(options.split(), recipe("imagenet-resnet50"), prog="test")
    assert config.data.path == Path("a/b")
    assert (config.optimizer.base_lr, config.batch_size, config.data.workers) == (0.1, 512, 3)
    assert config.model.zero_init_residual is False
    # What is not named stays as in the recipe.
    assert (config.epochs, config.optimizer.weight_decay, config.model.arch) == (100, 1e-4, "resnet50")


def test_lists_and_nones_can_be_overridden() -> None:
    config = parse("--augmentation.crop-scale", "0.08", "1", "--data.mean", "-0.5", "0", "1e-3", "--max-steps", "None")
    assert config.augmentation.crop_scale == (0.08, 1.0)
    assert config.data.mean == (-0.5, 0.0, 0.001)
    assert config.max_steps is None


def test_options_that_every_training_command_has() -> None:
    words = "--run-dir r --data.path p --data.backend torch --seed 1 --epochs 2 --batch-size 4 --max-steps 5"
    config = parse(*words.split(), "--resume", "auto", "--device", "cpu", "--deterministic")
    assert (config.run_dir, config.data.path, config.data.backend) == (Path("r"), Path("p"), "torch")
    assert (config.seed, config.epochs, config.batch_size, config.max_steps) == (1, 2, 4, 5)
    assert (config.resume, config.device, config.deterministic) == ("auto", "cpu", True)


@pytest.mark.parametrize("name", recipe_names())
def test_configuration_survives_a_file(name: str, tmp_path: Path) -> None:
    options = "--run-dir runs/ünï --data.path p --knn.train a --knn.test b --max-steps 7 --log.no-tensorboard"
    numbers = "--optimizer.base-lr 0.1234567890123 --data.mean -0.1 1e-7 0.3333333333333333 --deterministic"
    config = parse_options([*options.split(), *numbers.split()], recipe(name), prog="test")
    assert load_config(written(tmp_path, yaml.safe_dump(to_tree(config)))) == config


def test_tree_is_plain() -> None:
    tree = to_tree(parse("--data.path", "p"))
    assert tree["data"]["path"] == "p"
    assert tree["data"]["mean"] == [0.485, 0.456, 0.406]
    assert yaml.safe_load(yaml.safe_dump(tree)) == tree


def test_yaml_may_leave_anything_out(tmp_path: Path) -> None:
    assert load_config(written(tmp_path, "")) == PretrainConfig()
    assert load_config(written(tmp_path, "model:\nepochs: 3\n")) == PretrainConfig(epochs=3)


@pytest.mark.parametrize(
    ("text", "suggestion"),
    [
        ("batchsize: 8", "--batch-size"),
        ("model:\n  projection_dims: 8", "--model.projection-dim"),
        ("optimizer:\n  lr: 0.1", "--optimizer.base-lr"),
        ("epochs:\n  number: 3", "--epochs"),
    ],
)
def test_unknown_key_ends_with_the_nearest_one(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str, suggestion: str
) -> None:
    with pytest.raises(SystemExit, match="2"):
        load_config(written(tmp_path, text))
    assert suggestion in capsys.readouterr().err


@pytest.mark.parametrize(
    ("option", "suggestion"),
    [("--epoch", "--epochs"), ("--data.paht", "--data.path"), ("--batchsize", "--batch-size")],
)
def test_unknown_option_ends_with_the_nearest_one(
    capsys: pytest.CaptureFixture[str], option: str, suggestion: str
) -> None:
    with pytest.raises(SystemExit, match="2"):
        parse(option, "3")
    assert re.search(rf"{suggestion}\b", capsys.readouterr().err)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ("--epochs three", "three"),
        ("--epochs 1.5", "1.5"),
        ("--model.arch resnet19", "resnet18"),
        ("--model.projector-layers 4", "4"),
        ("--data.mean 1 2", "data.mean"),
        ("--device gpu", "cuda"),
        ("--data.backend dally", "torch"),
        ("--log.tensorboard maybe", "maybe"),
    ],
)
def test_wrong_value_ends_with_what_is_wrong(capsys: pytest.CaptureFixture[str], options: str, said: str) -> None:
    with pytest.raises(SystemExit, match="2"):
        parse(*options.split())
    assert said in capsys.readouterr().err


@pytest.mark.parametrize("text", ["model: [", "- epochs\n- 3\n", "just words"])
def test_file_that_holds_no_settings_is_refused(tmp_path: Path, text: str) -> None:
    file = written(tmp_path, text)
    with pytest.raises(ValueError, match=re.escape(str(file))):
        load_config(file)


@pytest.mark.parametrize(
    ("name", "nearest"), [("imagenet", "imagenet-resnet50"), ("cifar", "cifar10-resnet18"), ("costum", "custom")]
)
def test_unknown_recipe_is_refused_with_the_nearest(name: str, nearest: str) -> None:
    with pytest.raises(ValueError, match=f"no recipe, YAML file or run folder '{name}'. Did you mean {nearest}?"):
        recipe_file(name)


def test_recipe_file_takes_names_files_and_run_folders(tmp_path: Path) -> None:
    assert recipe_file("demo").name == "demo.yaml"
    file = written(tmp_path, "")
    assert recipe_file(str(file)) == file
    (tmp_path / "config.yaml").touch()
    assert recipe_file(str(tmp_path)) == tmp_path / "config.yaml"


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: PretrainConfig(epochs=0), "epochs is 0; give 1 or more"),
        (lambda: PretrainConfig(batch_size=1), "batch_size is 1; batch norm needs at least 2"),
        (lambda: PretrainConfig(max_steps=0), "max_steps is 0; give 1 or more"),
        (lambda: PretrainConfig(seed=-1), "seed is -1; give a whole number"),
        (lambda: PretrainConfig(seed=2**63), "seed is 9223372036854775808; give a whole number"),
        (lambda: PretrainConfig(knn=KnnConfig(short_side=223)), "knn.short_side is 223, less than data.size, 224"),
        (lambda: DataConfig(size=7), "data.size is 7; give a view of at least 8"),
        (lambda: DataConfig(workers=-1), "data.workers is -1; give 0 or more"),
        (lambda: DataConfig(std=(1, 0, 1)), "data.std is .*; give three positive numbers"),
        (lambda: OptimizerConfig(base_lr=-0.1), "optimizer.base_lr is -0.1; give 0 or more"),
        (lambda: OptimizerConfig(momentum=-1), "optimizer.momentum is -1; give 0 or more"),
        (lambda: OptimizerConfig(warmup_epochs=-1), "optimizer.warmup_epochs is -1; give 0 or more"),
        (lambda: KnnConfig(train=Path("a")), "knn.train and knn.test go together"),
        (lambda: KnnConfig(k=0), "knn.k is 0.*must be positive"),
        (lambda: KnnConfig(temperature=0), "knn.temperature 0; both must be positive"),
        (lambda: LogConfig(every_steps=0), "log.every_steps is 0; give 1 or more"),
        (lambda: CheckpointConfig(every_epochs=0), "checkpoint.every_epochs must be 1 or more"),
        (lambda: CheckpointConfig(keep=1), "checkpoint.keep is 1; give 2 or more"),
        (lambda: Augmentation(crop_scale=(1.0, 0.2)), "crop_scale is 1.0, 0.2; give two positive numbers"),
    ],
)
def test_setting_that_cannot_work_is_refused(make, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        make()


def test_refused_setting_is_told_by_the_parser(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        parse("--checkpoint.keep", "1")
    assert "checkpoint.keep is 1; give 2 or more" in " ".join(re.sub("[│\n]", " ", capsys.readouterr().err).split())


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
    other = "--log.every-steps 3 --checkpoint.keep 5 --knn.every-epochs 1 --deterministic --compile default"
    changed = parse(*options.split(), *other.split())
    assert identity_differences(to_tree(PretrainConfig()), to_tree(changed)) == []
