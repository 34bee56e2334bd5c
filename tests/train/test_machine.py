import resource
import shutil
from pathlib import Path

import pytest

from simsiam.pipeline.errors import UsageError
from simsiam.train import machine
from simsiam.train.machine import (
    Finding,
    describe_cores,
    find_caches,
    find_compiler,
    find_disk,
    find_open_files,
    find_shared_memory,
    raise_open_files,
    require,
    warn_of,
)


@pytest.mark.parametrize(("device", "variable", "program"), [("cpu", "CXX", "g++"), ("cuda", "CC", "gcc")])
def test_compiler_is_the_one_that_is_named_or_found(
    device: str, variable: str, program: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(machine.sysconfig, "get_path", lambda name: str(tmp_path))
    (tmp_path / "Python.h").touch()
    monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    found = find_compiler(device)
    assert found.state == "problem" and program in found.what and variable in found.advice
    for name in (program, "mine"):
        (tmp_path / name).touch(mode=0o755)
    assert find_compiler(device).what.endswith(str(tmp_path / program))
    monkeypatch.setenv(variable, "mine")
    assert find_compiler(device).what.endswith(str(tmp_path / "mine"))
    monkeypatch.setenv(variable, "gone")
    assert "gone" in find_compiler(device).what and find_compiler(device).state == "problem"
    monkeypatch.delenv(variable)
    (tmp_path / "Python.h").unlink()
    assert "Python.h" in find_compiler(device).what


def test_quota_is_told_beside_the_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "cpu_quota", lambda: 1.5)
    monkeypatch.setattr(machine, "available_cores", lambda: 2)
    monkeypatch.setattr(machine.os, "cpu_count", lambda: 64)
    assert describe_cores("X").what == "CPU: X, 2 of 64 cores for this program, by a quota of 1.5"
    monkeypatch.setattr(machine, "cpu_quota", lambda: None)
    assert "quota" not in describe_cores("X").what


def test_shared_memory_is_compared_with_the_need(monkeypatch: pytest.MonkeyPatch) -> None:
    for free, state in ((2**26, "problem"), (2**33, "ok")):
        monkeypatch.setattr(machine, "free_shared_memory", lambda free=free: free)
        found = find_shared_memory(images=256, size=160, workers=8)
        assert found and found.state == state and "0.7 GiB" in found.what
    monkeypatch.setattr(machine, "free_shared_memory", lambda: None)
    assert find_shared_memory(256, 160, 8) is None


def test_limit_of_open_files_is_raised_as_far_as_it_may(monkeypatch: pytest.MonkeyPatch) -> None:
    limits = [1024, 4096]
    monkeypatch.setattr(resource, "getrlimit", lambda _: tuple(limits))
    monkeypatch.setattr(resource, "setrlimit", lambda _, new: limits.__setitem__(slice(None), new))
    for workers, state, soft in ((2, "ok", 1024), (64, "ok", 256 + 10 * 130 + 8 * 64), (500, "problem", 4096)):
        assert find_open_files(workers).state == state
        raise_open_files(workers)
        assert limits == [soft, 4096]
    assert "ulimit" in find_open_files(500).advice
    limits[:] = [resource.RLIM_INFINITY, resource.RLIM_INFINITY]
    assert find_open_files(500).state == "ok"


def test_caches_that_cannot_be_written_name_their_variable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    variables = ("XDG_CACHE_HOME", "NUMBA_CACHE_DIR", "TRITON_CACHE_DIR", "TORCHINDUCTOR_CACHE_DIR")
    for variable in variables:
        monkeypatch.setenv(variable, str(tmp_path / "new" / variable))
    assert [found.state for found in find_caches("cuda")] == ["ok"] * 4
    (tmp_path / "file").touch()
    for variable in variables:
        monkeypatch.setenv(variable, str(tmp_path / "file" / "folder"))
    for found, variable in zip(find_caches("cuda"), variables, strict=True):
        assert found.state == "missing" and variable in found.advice
    assert len(list(find_caches("cpu"))) == 3


def test_disk_holds_the_checkpoints_and_one_more(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=4 * 2**20))
    assert find_disk(tmp_path / "new" / "run", 2**20, keep=3).state == "ok"
    assert find_disk(tmp_path / "new" / "run", 2**20, keep=4).state == "problem"


def test_problem_is_an_error_or_a_warning_and_the_rest_is_neither() -> None:
    problem = Finding("problem", "no disk", "buy one")
    with pytest.raises(UsageError, match="no disk; buy one"):
        require(problem)
    with pytest.warns(UserWarning, match="no disk; buy one"):
        warn_of(problem)
    for state in ("ok", "missing"):
        require(Finding(state, ""))
        warn_of(Finding(state, ""))
