import ast
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGES = ("pipeline", "model", "kernels", "train")
FILES = sorted(file.relative_to(ROOT) for package in PACKAGES for file in (ROOT / package).rglob("*.py"))

# What each package may import of ours.
OURS = {
    "kernels": {"kernels"},
    "model": {"model", "kernels"},
    "pipeline": {"pipeline"},
    "train": {"train", "model", "kernels", "pipeline"},
}
# What all packages may import: numba's compiler as all compiled loops need it.
SHARED = {"kernels.compiled_once"}
# What only one place may import.
RESERVED = {
    "triton": re.compile(r"kernels/\w+_triton\.py"),
    "nvidia": re.compile(r"pipeline/loaders/dali_pipeline\.py"),
    "ffcv": re.compile(r"pipeline/loaders/ffcv_routines\.py|train/bench/baseline_ffcv\.py"),
}
# Rooms of which only these may import: bench is a leaf, and the command line imports commands by name.
ROOMS = {
    "train.bench": re.compile(r"train/bench/\w+\.py|train/commands/bench_\w+\.py"),
    "train.commands": re.compile(r"train/cli\.py"),
}
# Packages that may stand beside ours and are no dependency that pyproject.toml names.
NEIGHBOURS = {"nvidia", "dali", "triton", "apex", "timm", "onnx", "sklearn", "wandb", "safetensors", "lightly", "PIL"}


def imported_names(source: str) -> Iterator[str]:
    """Yield what a file imports, wherever in it; a relative import with its dots."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            module = "." * node.level + (node.module or "")
            # `from simsiam import pipeline` imports simsiam.pipeline.
            yield from (f"{module}.{alias.name}" for alias in node.names) if module == "simsiam" else [module]
        elif isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Constant):
            name = ast.unparse(node.func).rpartition(".")[2]
            if name in ("import_module", "__import__"):
                yield str(node.args[0].value)


def violations(file: Path, source: str) -> list[str]:
    """Return the imports of a file that the design forbids."""
    found = []
    for name in imported_names(source):
        top, _, rest = name.partition(".")
        relative_or_bare = top in ("", *PACKAGES, "tests")
        foreign_room = top == "simsiam" and rest.partition(".")[0] not in OURS[file.parts[0]] and rest not in SHARED
        reserved = top in RESERVED and not RESERVED[top].fullmatch(file.as_posix())
        walled = any(
            rest == room or rest.startswith(f"{room}.")
            for room, allowed in ROOMS.items()
            if top == "simsiam" and not allowed.fullmatch(file.as_posix())
        )
        if relative_or_bare or foreign_room or reserved or walled:
            found.append(name)
    return found


@pytest.mark.parametrize("file", FILES, ids=str)
def test_file_imports_only_what_its_package_may(file: Path) -> None:
    assert violations(file, (ROOT / file).read_text()) == []


@pytest.mark.parametrize(
    ("file", "source"),
    [
        ("kernels/augment.py", "import simsiam.model.resnet"),
        ("model/zoo.py", "from simsiam.pipeline.source import Source"),
        ("pipeline/order.py", "from simsiam.kernels.augment import augment_views"),
        ("pipeline/order.py", "from simsiam import train"),
        ("pipeline/order.py", "def late():\n    import simsiam.train.config"),
        ("model/simsiam.py", "if TYPE_CHECKING:\n    import simsiam.train.config"),
        ("train/step.py", "from .schedule import learning_rate"),
        ("train/step.py", "from . import schedule"),
        ("train/step.py", "import kernels.augment"),
        ("train/step.py", "from tests.conftest import cache_home"),
        ("kernels/augment.py", "import triton.language as tl"),
        ("model/batch_norm_triton.py", "import triton"),
        ("pipeline/loaders/open_loader.py", "from nvidia.dali import fn"),
        ("train/optimizer.py", "import ffcv"),
        ("train/bench/step.py", "from simsiam.train.commands.bench_step import run"),
        ("train/pretrain.py", "from simsiam.train.bench.turns import take_turns"),
        ("train/commands/doctor.py", "from simsiam.train.bench.rows import check_package"),
        ("pipeline/beton/reader.py", "__import__('ffcv')"),
    ],
)
def test_forbidden_import_is_seen(file: str, source: str) -> None:
    assert len(violations(Path(file), source)) == 1


@pytest.mark.parametrize(
    ("file", "source"),
    [
        ("kernels/augment_triton.py", "import triton\nfrom simsiam.kernels.augment import augment_views"),
        ("model/simsiam.py", "from simsiam.kernels.negative_cosine import negative_cosine"),
        ("pipeline/loaders/dali_pipeline.py", "import nvidia.dali as dali"),
        ("pipeline/loaders/ffcv_routines.py", "from ffcv.libffcv import read"),
        ("train/commands/bench_step.py", "from simsiam.train.bench.step import bench_steps"),
        ("train/evaluation/knn.py", "from simsiam.pipeline.source import open_source"),
        ("train/doctor.py", "importlib.import_module(module)\nimportlib.util.find_spec('apex')"),
    ],
)
def test_allowed_import_is_left_alone(file: str, source: str) -> None:
    assert violations(Path(file), source) == []


def test_no_files_import_each_other_in_a_circle() -> None:
    """Wherever in a file the import stands: in a function, too, and for type checkers alone."""
    modules = {".".join(("simsiam", *file.with_suffix("").parts)): file for file in FILES}

    def imported_files(file: Path) -> set[Path]:
        tree = ast.parse((ROOT / file).read_text())
        from_rooms = {
            f"{node.module}.{alias.name}"
            for node in ast.walk(tree)
            if isinstance(node, ast.ImportFrom)
            for alias in node.names
        }
        names = {*imported_names((ROOT / file).read_text()), *from_rooms}
        return {modules[name] for name in names if name in modules}

    left = {file: imported_files(file) for file in FILES}
    while free := [file for file, imports in left.items() if not imports & left.keys()]:
        for file in free:
            del left[file]
    assert sorted(left) == []


def test_the_four_packages_have_no_init_file() -> None:
    assert [file for file in FILES if file.name == "__init__.py"] == []


def test_no_module_is_named_after_another_package() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"].values()
    requirements = [*project["dependencies"], *(requirement for extra in extras for requirement in extra)]
    taken = {re.split(r"\W", requirement.replace("-", "_"))[0] for requirement in requirements}
    taken -= {project["name"]}  # an extra that holds other extras
    taken |= set(sys.stdlib_module_names) | NEIGHBOURS
    assert [file for file in FILES if file.stem in taken] == []


def test_the_front_door_shows_every_public_name_and_imports_nothing_before_it_is_used() -> None:
    script = (
        "import sys, simsiam\n"
        "heavy = {'torch', 'numpy', 'torchvision', 'PIL', 'numba', 'yaml', 'rich'} & sys.modules.keys()\n"
        "assert not heavy, heavy\n"
        "assert set(simsiam.__all__) <= set(dir(simsiam))\n"
        "for name in simsiam.__all__:\n"
        "    getattr(simsiam, name)\n"
        "try:\n"
        "    simsiam.Simsiam\n"
        "except AttributeError as error:\n"
        "    assert 'SimSiam' in str(error)\n"
        "else:\n"
        "    sys.exit('a wrong name was found')\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("arguments", [[], ["--help"], ["--version"], ["pretrain", "demo", "--print-config"]])
def test_what_trains_nothing_does_not_wait_for_torch(arguments: list[str]) -> None:
    script = (
        "import sys\n"
        "from simsiam.train.cli import run\n"
        "run(sys.argv[1:])\n"
        "slow = {'torch', 'torchvision', 'matplotlib', 'tensorboard', 'triton', 'ffcv'} & sys.modules.keys()\n"
        "sys.exit(f'imported: {slow}' if slow else 0)\n"
    )
    done = subprocess.run([sys.executable, "-c", script, *arguments], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")
