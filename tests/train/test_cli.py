import multiprocessing
import os
import subprocess
import sys
import warnings
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from simsiam.pipeline.errors import ForeignFileError, ImageError, RunError, UsageError
from simsiam.train import cli
from simsiam.train.cli import COMMANDS, run
from simsiam.train.commands.convert import ConvertOptions
from simsiam.train.config import PretrainConfig
from simsiam.train.terminal.arguments import parse

Capture = pytest.CaptureFixture[str]


def line(capsys: Capture) -> str:
    """Return what was said on stderr, which must be one line of our own."""
    said = capsys.readouterr().err
    assert said.startswith("simsiam: ") and said.count("\n") == 1
    return said


@pytest.fixture
def wrong(tmp_path: Path, tiny_images: Path) -> Path:
    """A folder with everything that is given by mistake."""
    (tmp_path / "empty").mkdir()
    (tmp_path / "texts").mkdir()
    (tmp_path / "texts" / "a.txt").write_text("no image")
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "a.jpg").write_text("no image")
    (tmp_path / "notes.txt").write_text("no image")
    (tmp_path / "cut.beton").write_bytes(b"\x02\x00\x02\x00")
    content = BytesIO()
    Image.new("RGB", (20, 20)).save(content, "JPEG")
    (tmp_path / "single.jpg").write_bytes(content.getvalue())
    torch.save({"state_dict": {}}, tmp_path / "theirs.pth")
    return tmp_path


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ("pretrain custom", "a .beton file; the option is --data.path."),
        ("pretrain custom --data.path {wrong}/nowhere", "There is no folder or file {wrong}/nowhere; give a folder"),
        ("pretrain custom --data.path {wrong}/empty", "There is no image in {wrong}/empty"),
        ("pretrain custom --data.path {wrong}/texts", "only 1 other files; images are the files that end in"),
        ("pretrain custom --data.path {wrong}/broken", "None of the 1 images in {wrong}/broken can be read"),
        ("pretrain custom --data.path {wrong}/notes.txt", "{wrong}/notes.txt is no .beton file"),
        ("pretrain custom --data.path {wrong}/single.jpg", "{wrong}/single.jpg is a single image"),
        ("pretrain custom --data.path {wrong}/cut.beton", "{wrong}/cut.beton"),
        ("pretrain custom --data.path {images}/train", "The batch size 256 is larger than the 48 images there are"),
        ("pretrain custom --data.path {images}/train --batch-size 8 --run-dir {run}", "{run} is already in use"),
        ("pretrain custom --data.path {images}/train --batch-size 8 --resume {wrong}/no.pt", "no.pt can't be read"),
        ("pretrain custom --data.path {images}/train --batch-size 8 --resume auto --run-dir {run}", "other settings"),
        ("pretrain custom --data.path {images}/train --batch-size 8 --knn.train x --knn.test y", "no folder or file x"),
        ("pretrain custom --data.path {images}/train --device cuda", "The device cuda was asked for, but"),
        (
            "pretrain costum --data.path {images}/train",
            "run folder costum; did you mean custom?",
        ),
        ("pretrain", "Name a recipe, a YAML file or a run folder first"),
        ("pretrain --epochs 3", "Name a recipe, a YAML file or a run folder first"),
        ("evaluate knn {wrong}/no.pt --train {images}/train --test {images}/test", "no.pt can't be read"),
        ("evaluate knn {wrong}/theirs.pth --train {images}/train --test {images}/test", "no checkpoint of simsiam"),
        (
            "evaluate knn {wrong}/notes.txt --train {images}/train --test {images}/test",
            "notes.txt is truncated, or is no checkpoint. Give a run folder",
        ),
        ("evaluate knn {wrong}/empty --train {images}/train --test {images}/test", "There is no checkpoint in"),
        (
            "evaluate knn {run} --train {images}/train/fine --test {images}/test",
            "has a label: put each class into a folder",
        ),
        ("evaluate knn {run} --train {wrong}/nowhere --test {images}/test", "There is no folder or file"),
        ("plot", "Name at least one run folder"),
        ("plot {run} --out {wrong}/curves.pdf", "give a name that ends in .png"),
        ("preview {images}/train --out {wrong}/views.jpg", "give a name that ends in .png"),
        ("convert {images}/train {wrong}/out.txt", "give a name that ends in .beton"),
        ("plot {wrong}/empty", "{wrong}/empty is no run folder"),
        ("convert {images}/test {wrong}/new.beton --devkit {wrong}/empty", "ImageNet's validation tar alone; leave"),
        ("preview {wrong}/nowhere", "There is no folder or file {wrong}/nowhere"),
        ("preview {images}/train --count 100", "100 images can't be shown of 48"),
        ("convert {wrong}/nowhere {wrong}/out.beton", "There is no folder or file {wrong}/nowhere"),
        ("convert {images}/test {wrong}/cut.beton", "{wrong}/cut.beton"),
        ("convert {images}/test {wrong}/out.beton --quality 101", "The JPEG quality 101 must lie between 1 and 100"),
        ("bench loader {images}/train --batch-size 64", "The batch size 64 is larger than the 48 images"),
        ("bench loader {images}/train --device cuda", "The device cuda was asked for, but"),
        ("demo --out {wrong}/notes.txt", "notes.txt is not an empty folder; remove it, or"),
        ("demo --out {images}", "{images} is not an empty folder; remove it, or choose another folder."),
        ("pretrian", "There is no command 'pretrian'. Did you mean pretrain? Run simsiam --help"),
        ("--versoin", "There is no option '--versoin'. Did you mean --version? Run simsiam --help"),
        ("xyzzy", "There is no command 'xyzzy'. Run simsiam --help for the list"),
        ("evaluate", "`simsiam evaluate` needs one of: knn"),
        ("evaluate linaer", "`simsiam evaluate` needs one of: knn"),
        ("bench", "`simsiam bench` needs one of: loader"),
    ],
)
def test_mistake_is_told_in_one_sentence(
    arguments: str,
    said: str,
    wrong: Path,
    tiny_images: Path,
    tiny_run: Path,
    run_dir: Path,
    capsys: Capture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(run_dir.parent)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    places = {"wrong": str(wrong), "images": str(tiny_images), "run": str(tiny_run)}
    assert run(arguments.format(**places).split()) == 2
    told = line(capsys)
    assert said.format(**places) in told and told.endswith(".\n")
    assert not run_dir.exists() and not (Path("runs")).exists()


@pytest.mark.parametrize(
    ("arguments", "suggestion"),
    [
        ("pretrain custom --epoch 3", "--epochs"),
        ("pretrain custom --data.paht x", "--data.path"),
        ("pretrain custom --model.arch resnet19", "resnet18"),
        ("preview x --sizes 3", "--size"),
        ("evaluate knn run", "--train"),
        ("bench loader x --backend dally", "torch"),
        ("convert x", "OUT"),
    ],
)
def test_wrong_option_is_told_with_the_nearest(arguments: str, suggestion: str, capsys: Capture) -> None:
    assert run(arguments.split()) == 2
    said = capsys.readouterr()
    assert said.err.startswith("simsiam: ") and said.err.count("\n") == 1
    assert suggestion in said.err and said.out == ""


def test_images_that_break_in_a_worker_are_named_in_one_sentence(
    tiny_images: Path, run_dir: Path, capsys: Capture
) -> None:
    beton = run_dir.parent / "images.beton"
    assert run(["convert", str(tiny_images / "test"), str(beton), "--workers", "1"]) == 0
    content = beton.read_bytes()
    # Each record loses its header; the file as a whole stays in order.
    beton.write_bytes(content.replace(b"\xff\xd8\xff\xe0", bytes(4)))
    options = f"--data.path {beton} --data.backend torch --data.workers 2 --batch-size 8 --device cpu --data.size 16"
    capsys.readouterr()
    assert run(["pretrain", "custom", *options.split(), "--run-dir", str(run_dir)]) == 1
    told = line(capsys)
    assert "not an image in any format" in told
    assert "; convert the images again with --check full" in told and "--data.on-broken replace --resume auto" in told
    assert multiprocessing.active_children() == []


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Make a function the command `extra`."""

    def add(function: Callable[..., int]) -> None:
        monkeypatch.setitem(COMMANDS, "extra", "a command of the test")
        monkeypatch.setitem(sys.modules, "simsiam.train.commands.extra", SimpleNamespace(run=function))

    return add


@pytest.fixture
def fails(command: Callable[..., None]) -> Callable[[BaseException], int]:
    """Run a command that fails with the given error."""

    def fail(error: BaseException) -> int:
        def run_extra(arguments, prog) -> int:
            raise error

        command(run_extra)
        return run(["extra"])

    return fail


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (UsageError("Wrong value."), 2),
        (RunError("A worker died."), 1),
        (ImageError("a.jpg: the file is empty"), 1),
        (OSError(28, "No space left on device"), 1),
        (KeyboardInterrupt(), 130),
    ],
)
def test_exit_code_says_what_kind_of_failure(error: BaseException, code: int, fails, capsys: Capture) -> None:
    assert fails(error) == code
    said = error.strerror if isinstance(error, OSError) else str(error)
    assert line(capsys) == f"simsiam: {said or 'interrupted'}\n"


@pytest.mark.parametrize(
    ("error", "advice"),
    [
        (UsageError("The file exists.", argument="overwrite"), "; the option is --overwrite.\n"),
        (
            RunError("The disk is full.", argument="data.on_broken=replace"),
            "; the option is --data.on-broken=replace.\n",
        ),
        (ForeignFileError("a.tar is no .beton file."), "; simsiam convert SOURCE OUT.beton converts them.\n"),
    ],
)
def test_the_option_or_the_command_that_would_help_is_named(error: Exception, advice: str, fails, capsys) -> None:
    parse(ConvertOptions, ["a", "b"], "simsiam convert")  # as the command does before it fails
    if isinstance(error, RunError):
        parse(PretrainConfig, [], "simsiam pretrain")
    fails(error)
    assert line(capsys) == f"simsiam: {str(error).removesuffix('.')}{advice}"


def test_an_option_that_the_command_lacks_is_not_named(fails, capsys: Capture) -> None:
    parse(ConvertOptions, ["a", "b"], "simsiam convert")
    fails(UsageError("There is no GPU.", argument="device=cpu"))
    assert line(capsys) == "simsiam: There is no GPU.\n"


@pytest.mark.parametrize("kind", [ValueError, RuntimeError, KeyError, AssertionError, TypeError])
def test_defect_keeps_its_traceback(kind: type[Exception], fails) -> None:
    with pytest.raises(kind, match="forgotten"):
        fails(kind("forgotten"))


def test_error_out_of_compiled_code_keeps_its_traceback(command) -> None:
    def run_extra(arguments, prog) -> int:
        np.zeros(-1)
        return 0

    command(run_extra)
    with pytest.raises(ValueError, match="negative dimensions"):
        run(["extra"])


def test_full_gpu_is_told_with_advice(fails, capsys: Capture) -> None:
    for settings, advice in ((PretrainConfig, "; a smaller --batch-size needs less.\n"), (ConvertOptions, ".\n")):
        parse(settings, ["a", "b"] if settings is ConvertOptions else [], "test")
        assert fails(torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")) == 1
        assert line(capsys) == f"simsiam: The GPU's memory is too small for this{advice}"


def test_traceback_can_be_asked_for(fails, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SIMSIAM_TRACEBACK", "1")
    with pytest.raises(UsageError, match="Wrong value"):
        fails(UsageError("Wrong value."))


def test_warnings_are_one_line(command, capsys: Capture) -> None:
    def warn(arguments, prog) -> int:
        warnings.simplefilter("always")
        warnings.warn("The newest checkpoint is damaged.", stacklevel=1)
        warnings.warn("old call", DeprecationWarning, stacklevel=1)
        return 0

    command(warn)
    assert run(["extra"]) == 0
    assert capsys.readouterr().err == (
        "simsiam: warning: The newest checkpoint is damaged.\nsimsiam: warning: DeprecationWarning: old call\n"
    )


def test_signs_that_the_output_has_not_do_not_end_a_command(tiny_images: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "simsiam.train.cli", "convert", tiny_images / "test", tmp_path / "o.beton"]
    environment = os.environ | {"PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0"}
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, env=environment)
    assert (done.returncode, done.stderr) == (0, "")
    assert "\\u2192" in done.stdout


def test_module_run_as_a_program_behaves_like_the_command() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "simsiam.train.cli", "pretrian"], capture_output=True, text=True, timeout=60
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert (
        done.stderr
        == "simsiam: There is no command 'pretrian'. Did you mean pretrain? Run simsiam --help for the list.\n"
    )


def test_reader_that_goes_away_causes_no_traceback() -> None:
    read_end, write_end = os.pipe()
    os.close(read_end)
    done = subprocess.run(
        [sys.executable, "-m", "simsiam.train.cli", "--help"], stdout=write_end, stderr=subprocess.PIPE, timeout=60
    )
    os.close(write_end)
    assert (done.returncode, done.stderr) == (1, b"")


def test_help_lists_every_command(capsys: Capture) -> None:
    for arguments, code in ((["--help"], 0), (["-h"], 0), (["help"], 0), ([], 2)):
        assert run(arguments) == code
        said = capsys.readouterr().out
        assert all(f"\n  {name} " in said for name in COMMANDS)
        assert max(map(len, said.splitlines())) < 80


def test_each_command_is_a_file_and_only_the_command_line_imports_them() -> None:
    train = Path(cli.__file__).parent
    assert {file.stem for file in (train / "commands").glob("*.py")} == {name.replace(" ", "_") for name in COMMANDS}
    assert [file.name for file in train.rglob("*.py") if "simsiam.train.commands" in file.read_text()] == ["cli.py"]


def test_version(capsys: Capture) -> None:
    assert run(["--version"]) == 0
    assert capsys.readouterr().out.startswith("simsiam 0.")


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_explains_itself(name: str, capsys: Capture) -> None:
    assert run([*name.split(), "--help"]) == 0
    said = capsys.readouterr()
    assert f"simsiam {name}" in said.out and said.err == ""


def test_help_of_a_recipe_has_its_values(capsys: Capture) -> None:
    assert run(["pretrain", "cifar10-resnet18", "--help"]) == 0
    said = " ".join(capsys.readouterr().out.replace("│", " ").split())
    assert "[default: 800]" in said and "[default: resnet18]" in said


def test_of_the_processes_on_a_machine_one_tells_of_a_mistake_and_each_of_a_failure(
    monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    told = []
    place = {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "here", "MASTER_PORT": "1"}
    for rank in ("0", "1"):
        for name, value in (place | {"RANK": rank, "LOCAL_RANK": rank}).items():
            monkeypatch.setenv(name, value)
        assert run(["pretrain", "custom", "--no-such-option"]) == 2
        told.append(capsys.readouterr().err.count("--no-such-option"))
    assert told == [1, 0]
    monkeypatch.setattr("simsiam.train.cli.run_command", lambda *_: (_ for _ in ()).throw(RunError("it failed")))
    assert run(["verify", "x"]) == 1
    assert line(capsys) == "simsiam: it failed\n"


def test_a_name_in_an_error_or_a_warning_stays_on_its_line(monkeypatch: pytest.MonkeyPatch, capsys: Capture) -> None:
    def fail(*_: object) -> int:
        warnings.warn("odd: \x1b[31m\n", stacklevel=1)
        raise RunError("bad: \x1b[31m\nsimsiam: done")

    monkeypatch.setattr("simsiam.train.cli.run_command", fail)
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        assert run(["verify", "x"]) == 1
    warning, error = capsys.readouterr().err.splitlines()
    assert (warning, error) == ("simsiam: warning: odd: \\x1b[31m\\n", "simsiam: bad: \\x1b[31m\\nsimsiam: done")


TERMINATED = """
import os, signal, sys
from simsiam.train import cli
def run_command(name, arguments):
    try:
        os.kill(os.getpid(), signal.SIGTERM)
    except KeyboardInterrupt as stop:
        stop.add_note("half of it is kept")
        raise
cli.run_command = run_command
sys.argv = ["simsiam", "convert"]
cli.main()
"""


def test_sigterm_ends_a_command_as_ctrl_c_does() -> None:
    ended = subprocess.run([sys.executable, "-c", TERMINATED], capture_output=True, text=True, timeout=60)
    assert (ended.returncode, ended.stderr) == (143, "simsiam: terminated; half of it is kept\n")
