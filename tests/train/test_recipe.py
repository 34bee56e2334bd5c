import re
from pathlib import Path

import pytest
import yaml

from simsiam.pipeline.augmentation import Augmentation
from simsiam.pipeline.errors import UsageError
from simsiam.train.cli import run
from simsiam.train.config import PretrainConfig, to_tree
from simsiam.train.recipe import load_config, recipe_file, recipe_names
from simsiam.train.terminal.arguments import parse


def recipe(name: str) -> PretrainConfig:
    return load_config(recipe_file(name))


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


def test_list_where_one_value_belongs_is_told_as_such(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"epochs takes one value, not the list \[10, 20\]"):
        load_config(written(tmp_path, "epochs: [10, 20]"))


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


@pytest.mark.parametrize("name", recipe_names())
def test_configuration_survives_a_file(name: str, tmp_path: Path) -> None:
    options = "--run-dir runs/ünï --data.path p --knn.train a --knn.test b --max-steps 7 --log.no-tensorboard"
    numbers = "--optimizer.base-lr 0.1234567890123 --data.mean 0.1 1e-7 0.3333333333333333 --deterministic"
    config = parse(recipe(name), [*options.split(), *numbers.split()], prog="test")
    assert load_config(written(tmp_path, yaml.safe_dump(to_tree(config)))) == config


def test_yaml_may_leave_anything_out(tmp_path: Path) -> None:
    assert load_config(written(tmp_path, "")) == PretrainConfig()
    assert load_config(written(tmp_path, "model:\nepochs: 3\n")) == PretrainConfig(epochs=3)


def test_a_tilde_is_the_home_folder_in_a_file_and_on_the_command_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", "/h")
    (tmp_path / "a.yaml").write_text("data:\n  path: ~/images\n")
    config = parse(load_config(tmp_path / "a.yaml"), ["--run-dir=~/run", "--knn.train", "~/a", "--knn.test=~/b"], "p")
    paths = config.data.path, config.run_dir, config.knn.train, config.knn.test
    assert list(map(str, paths)) == ["/h/images", "/h/run", "/h/a", "/h/b"]


def test_on_and_off_need_no_quotes(tmp_path: Path) -> None:
    config = load_config(written(tmp_path, "fused_batch_norm: off\ncompile: off\nlog:\n  tensorboard: off"))
    assert (config.fused_batch_norm, config.compile, config.log.tensorboard) == ("off", "off", False)
    assert load_config(written(tmp_path, "fused_batch_norm: on")).fused_batch_norm == "on"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("batchsize: 8", "There is no key batchsize in {file}; did you mean batch_size?"),
        (
            "model:\n  projection_dims: 8",
            "There is no key model.projection_dims in {file}; did you mean model.projection_dim?",
        ),
        ("optimizer:\n  lr: 0.1", "There is no key optimizer.lr in {file}; did you mean optimizer.base_lr?"),
        ("epochs:\n  number: 3", "There is no key epochs.number in {file}; did you mean epochs?"),
        ("xyzzy: 1", "There is no key xyzzy in {file}."),
        ("log:\n  no_tensorboard: true", "There is no key log.no_tensorboard in {file}; did you mean log.tensorboard?"),
        ("batch_size: many", 'Invalid value for batch_size from {file}: unable to convert "many" into int.'),
        ("data:\n  mean: [1, 2]", "--data.mean from {file}: Incorrect number of arguments: expected 3 but got 2."),
        ("data:\n  mean: []", "--data.mean from {file}: Incorrect number of arguments: expected 3 but got 1."),
        (
            "log:\n  tensorboard: maybe",
            'Invalid value for log.tensorboard from {file}: unable to convert "maybe" into bool.',
        ),
        (
            "model:\n  arch: resnet19",
            'Invalid value "resnet19" for model.arch from {file}. Choose from: "resnet18", "resnet34", "resnet50",'
            ' "resnet101". Did you mean "resnet18"?',
        ),
        ("augmentation:\n  hue: 3", "In {file}: augmentation.hue is 3.0; give a number from 0 to 0.5 turns."),
        ("checkpoint:\n  keep: 1", "In {file}: checkpoint.keep is 1; give 2 or more"),
        ("epochs: 3\nmodel: [", "{file} is not valid YAML, line 2: "),
        ("epochs: 3\n\tbatch_size: 8\n", "{file} is not valid YAML, line 2: "),
        ("- epochs\n- 3\n", "{file} must hold keys and values"),
        ("just words", "{file} must hold keys and values"),
    ],
)
def test_mistake_in_a_file_is_told_with_file_and_key(tmp_path: Path, text: str, said: str) -> None:
    file = written(tmp_path, text)
    with pytest.raises(UsageError) as refusal:
        load_config(file)
    assert str(refusal.value).startswith(said.format(file=file))
    assert "\n" not in str(refusal.value)


def test_file_that_is_no_text_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "settings.yaml"
    file.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UsageError, match=f"{file} is not valid YAML"):
        load_config(file)


@pytest.mark.parametrize(
    ("name", "nearest"), [("imagenet", "imagenet-resnet50"), ("cifar", "cifar10-resnet18"), ("costum", "custom")]
)
def test_unknown_recipe_is_refused_with_the_nearest(name: str, nearest: str) -> None:
    with pytest.raises(ValueError, match=f"no recipe, YAML file or run folder {name}; did you mean {nearest}\\?"):
        recipe_file(name)


def test_recipe_file_takes_names_files_and_run_folders(tmp_path: Path) -> None:
    assert recipe_file("demo").name == "demo.yaml"
    file = written(tmp_path, "")
    assert recipe_file(str(file)) == file
    (tmp_path / "config.yaml").touch()
    assert recipe_file(str(tmp_path)) == tmp_path / "config.yaml"
