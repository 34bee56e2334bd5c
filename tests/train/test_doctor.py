from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console

from simsiam.pipeline import decode
from simsiam.pipeline.crops import BACKENDS, Backend
from simsiam.train import doctor
from simsiam.train.doctor import Finding, examine, report, take_one_batch
from simsiam.train.environment import describe_environment


def environment(**changes: object) -> dict:
    return describe_environment() | {"gpus": []} | changes


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch):
    """Pretend to be a machine with other properties."""

    def pretend(**changes: object) -> None:
        monkeypatch.setattr(doctor, "describe_environment", lambda: environment(**changes))

    pretend()
    monkeypatch.setattr("simsiam.train.machine.free_shared_memory", lambda: 2**33)
    monkeypatch.setattr(doctor, "take_one_batch", lambda backend, device: None)  # takes seconds for some
    return pretend


@pytest.fixture
def broken(machine, monkeypatch: pytest.MonkeyPatch):
    """Make one backend fail with the given error."""

    def broken(name: str, error: Exception) -> None:
        def fail(backend: Backend, device: str) -> None:
            if backend == name:
                raise error

        monkeypatch.setattr(doctor, "BACKENDS", ("auto", "torch", name))
        monkeypatch.setattr(doctor, "take_one_batch", fail)

    return broken


def finding(word: str) -> Finding:
    (found,) = (each for each in examine() if word in each.what)
    return found


def test_report_names_versions_devices_backends_and_machine(machine) -> None:
    screen = StringIO()
    report(Console(file=screen, width=40))
    lines = screen.getvalue().splitlines()
    for words in (
        "Python 3.",
        "torch ",
        "CPU: ",
        "GPU: ",
        "backend torch",
        "backend resident",
        "/dev/shm: 8.0 GiB",
        "Compiler for",
        "Open files: ",
        "Disk at ",
        "Cache of folder scans",
        "Cache of numba",
    ):
        assert any(words in line for line in lines), words
    assert all(line.startswith(("ok ", "missing ", "problem ", "        → ")) for line in lines)


def test_missing_gpu_is_no_problem_but_gets_advice(machine) -> None:
    found = finding("GPU: ")
    assert found.state == "missing" and found.advice


def test_gpus_are_listed(machine) -> None:
    machine(gpus=[{"name": "H100", "memory_gib": 79.1}], cuda="13.0")
    assert finding("GPU: ") == Finding("ok", "GPU: H100, 79.1 GiB, CUDA 13.0")


def test_missing_backend_comes_with_the_way_to_get_it(broken) -> None:
    broken("ffcv", ModuleNotFoundError("No module named 'ffcv'", name="ffcv"))
    assert finding("backend ffcv") == Finding(
        "missing",
        "Loader backend ffcv: there is no module ffcv",
        "in a clone of the project, as root: make install",
    )
    assert finding("backend torch").state == "ok"


def test_backend_that_fails_is_a_problem(broken) -> None:
    broken("dali", OSError("[libopencv_core.so] not found"))
    found = finding("backend dali")
    assert found.state == "problem" and "pip install nvidia-dali" in found.advice
    screen = StringIO()
    assert report(Console(file=screen)) is False
    # Square brackets are no markup.
    assert "Loader backend dali fails with: OSError: [libopencv_core.so] not found" in screen.getvalue()


def test_backends_are_tried_on_the_gpu_where_there_is_one(machine, monkeypatch: pytest.MonkeyPatch) -> None:
    tried: list[tuple[str, str]] = []
    monkeypatch.setattr(doctor, "take_one_batch", lambda *arguments: tried.append(arguments))
    finding("backend torch")
    machine(gpus=[{"name": "H100", "memory_gib": 79.1}], cuda="13.0")
    finding("backend torch")
    backends = [backend for backend in BACKENDS if backend != "auto"]
    assert tried == [(backend, device) for device in ("cpu", "cuda") for backend in backends]


@pytest.mark.parametrize("backend", ["torch", "resident", "synthetic"])
def test_backend_really_gives_crops(backend: Backend) -> None:
    take_one_batch(backend, "cpu")


@pytest.mark.parametrize("backend", ["torch", "resident"])
def test_backend_that_decodes_nothing_is_seen(backend: Backend, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decode, "_decode_jpeg", lambda encoded: 1 / 0)
    with pytest.raises(Exception, match="division by zero"):
        take_one_batch(backend, "cpu")


def test_pypis_apex_is_unmasked(machine, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "apex").mkdir()
    (tmp_path / "apex" / "__init__.py").touch()
    monkeypatch.syspath_prepend(tmp_path)
    found = finding("apex")
    assert (found.state, found.advice) == ("problem", "pip uninstall apex")


def test_little_shared_memory_is_a_problem_with_advice(machine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("simsiam.train.machine.free_shared_memory", lambda: 64 * 2**20)
    found = finding("/dev/shm")
    assert found.state == "problem" and "--shm-size" in found.advice
    assert report(Console(file=StringIO())) is False


def test_all_well_reports_true(machine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "_backends", lambda environment: [Finding("missing", "optional", "get it")])
    assert report(Console(file=StringIO())) is True
