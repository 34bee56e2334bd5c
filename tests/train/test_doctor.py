import importlib.util
from io import StringIO
from pathlib import Path
from types import SimpleNamespace

import pytest
from rich.console import Console

from simsiam.train import doctor
from simsiam.train.doctor import Finding, examine, report
from simsiam.train.environment import describe_environment


def environment(**changes: object) -> dict:
    return describe_environment() | {"shared_memory_bytes": 2**33, "gpus": []} | changes


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch):
    """Pretend to be a machine with other properties."""

    def pretend(**changes: object) -> None:
        monkeypatch.setattr(doctor, "describe_environment", lambda: environment(**changes))

    pretend()
    imports_nothing(monkeypatch)
    return pretend


def imports_nothing(monkeypatch: pytest.MonkeyPatch, error: Exception | None = None) -> None:
    """Import no backend, which takes seconds; fail with `error` if one is given."""

    def import_module(name: str) -> None:
        if error:
            raise error

    monkeypatch.setattr(doctor, "importlib", SimpleNamespace(import_module=import_module, util=importlib.util))


def finding(word: str) -> Finding:
    (found,) = (each for each in examine() if word in each.what)
    return found


def test_report_names_versions_devices_backends_and_machine(machine) -> None:
    screen = StringIO()
    report(Console(file=screen, width=40))
    lines = screen.getvalue().splitlines()
    for words in ("Python 3.", "torch ", "CPU: ", "GPU: ", "backend torch", "FFCV", "/dev/shm: 8.0 GiB", "Cache of"):
        assert any(words in line for line in lines), words
    assert all(line.startswith(("ok ", "missing ", "problem ", "        → ")) for line in lines)


def test_missing_gpu_is_no_problem_but_gets_advice(machine) -> None:
    found = finding("GPU: ")
    assert found.state == "missing" and found.advice


def test_gpus_are_listed(machine) -> None:
    machine(gpus=[{"name": "H100", "memory_gib": 79.1}], cuda="13.0")
    assert finding("GPU: ") == Finding("ok", "GPU: H100, 79.1 GiB, CUDA 13.0")


def test_missing_backend_comes_with_the_way_to_get_it(machine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "package_version", lambda name: None)
    found = finding("FFCV")
    assert found.state == "missing" and "install" in found.advice


def test_backend_that_breaks_on_import_is_a_problem(machine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "package_version", lambda name: "1.0.2")
    imports_nothing(monkeypatch, OSError("[libopencv_core.so] not found"))
    assert finding("FFCV").state == "problem"
    screen = StringIO()
    assert report(Console(file=screen)) is False
    # Square brackets are no markup.
    assert "installed, but import fails with: [libopencv_core.so] not found" in screen.getvalue()


def test_pypis_apex_is_unmasked(machine, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "apex").mkdir()
    (tmp_path / "apex" / "__init__.py").touch()
    monkeypatch.syspath_prepend(tmp_path)
    found = finding("apex")
    assert (found.state, found.advice) == ("problem", "pip uninstall apex")


def test_little_shared_memory_is_a_problem_with_a_way_out(machine) -> None:
    machine(shared_memory_bytes=64 * 2**20)
    found = finding("/dev/shm")
    assert found.state == "problem"
    assert "--shm-size" in found.advice and "--data.workers 0" in found.advice
    assert report(Console(file=StringIO())) is False


def test_all_well_reports_true(machine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "_backends", lambda: [Finding("missing", "optional", "get it")])
    assert report(Console(file=StringIO())) is True


def test_place_of_the_cache_is_told(machine, cache_home: Path) -> None:
    assert finding("Cache") == Finding("ok", f"Cache of folder scans: {cache_home / 'simsiam'}")
