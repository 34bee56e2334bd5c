import configparser
import shutil
import subprocess
import sys
import tomllib
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGES = ("pipeline", "model", "kernels", "train")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Iterator[zipfile.ZipFile]:
    # A copy, since setuptools leaves its build folder next to the sources.
    tree, out = tmp_path_factory.mktemp("tree"), tmp_path_factory.mktemp("wheel")
    for package in (*PACKAGES, "tests"):
        shutil.copytree(ROOT / package, tree / package, ignore=shutil.ignore_patterns("__pycache__"))
    for file in ("pyproject.toml", "README.md", "LICENSE", "__init__.py", "__main__.py", "py.typed"):
        shutil.copy(ROOT / file, tree)
    subprocess.run(
        [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "--no-index", "-w", out, tree],
        check=True,
        capture_output=True,
        timeout=100,
    )
    (file,) = out.glob("*.whl")
    with zipfile.ZipFile(file) as archive:
        yield archive


def packaged(wheel: zipfile.ZipFile) -> set[str]:
    return {name for name in wheel.namelist() if ".dist-info/" not in name}


def test_wheel_holds_the_front_door_every_file_of_the_four_packages_and_no_other(wheel: zipfile.ZipFile) -> None:
    files = {
        f"simsiam/{file.relative_to(ROOT).as_posix()}"
        for package in PACKAGES
        for pattern in ("*.py", "*.yaml")
        for file in (ROOT / package).rglob(pattern)
    } | {"simsiam/__init__.py", "simsiam/__main__.py", "simsiam/py.typed"}
    assert packaged(wheel) == files


def test_wheel_holds_recipes_and_type_marker(wheel: zipfile.ZipFile) -> None:
    names = packaged(wheel)
    assert "simsiam/train/recipes/imagenet-resnet50.yaml" in names
    assert "simsiam/py.typed" in names


def test_every_folder_with_modules_is_a_named_package() -> None:
    named = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]
    folders = {file.parent.relative_to(ROOT) for package in PACKAGES for file in (ROOT / package).rglob("*.py")}
    assert sorted(named) == sorted(["simsiam", *(".".join(("simsiam", *folder.parts)) for folder in folders)])


def test_wheel_installs_the_simsiam_command(wheel: zipfile.ZipFile) -> None:
    (entry_points,) = (name for name in wheel.namelist() if name.endswith(".dist-info/entry_points.txt"))
    parser = configparser.ConfigParser()
    parser.read_string(wheel.read(entry_points).decode())
    assert dict(parser["console_scripts"]) == {"simsiam": "simsiam.train.cli:main"}


def test_wheel_carries_the_licence(wheel: zipfile.ZipFile) -> None:
    (licence,) = (name for name in wheel.namelist() if name.endswith(".dist-info/licenses/LICENSE"))
    text = wheel.read(licence).decode()
    assert "Apache License" in text and "Version 2.0" in text


def test_a_foreign_simsiam_later_on_the_path_is_not_taken(wheel: zipfile.ZipFile, tmp_path: Path) -> None:
    """The reference implementation has a folder `simsiam` with an `__init__.py`, which won over a namespace package."""
    ours, foreign = tmp_path / "site", tmp_path / "foreign"
    wheel.extractall(ours)
    (foreign / "simsiam").mkdir(parents=True)
    (foreign / "simsiam" / "__init__.py").touch()
    script = "import simsiam, simsiam.model.resnet as resnet; print(simsiam.__file__, resnet.__file__, simsiam.resnet)"
    done = subprocess.run(
        [sys.executable, "-c", script],
        env={"PATH": "", "PYTHONPATH": f"{ours}:{foreign}"},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    init, module, function = done.stdout.split(maxsplit=2)
    assert init == str(ours / "simsiam" / "__init__.py") and module.startswith(str(ours))
    assert "function resnet" in function
