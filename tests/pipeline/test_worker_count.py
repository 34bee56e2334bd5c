import os
from pathlib import Path

import pytest

from simsiam.pipeline import worker_count
from simsiam.pipeline.errors import UsageError
from simsiam.pipeline.worker_count import available_cores, cpu_quota


def control_groups(root: Path, own: str, files: dict[str, str]) -> tuple[Path, Path]:
    """Write a tree of control groups, and what /proc/self/cgroup says; returns both paths."""
    (root / "own").write_text(own)
    for name, text in files.items():
        file = root / "cgroup" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    return root / "cgroup", root / "own"


@pytest.mark.parametrize(
    ("own", "files", "cores"),
    [
        pytest.param("0::/\n", {"cpu.max": "200000 100000\n"}, 2, id="version 2 in a container"),
        pytest.param("0::/a/b\n", {"a/cpu.max": "150000 100000", "a/b/cpu.max": "max 100000"}, 1.5, id="the parent's"),
        pytest.param("0::/a\n", {"cpu.max": "300000 100000", "a/cpu.max": "50000 100000"}, 0.5, id="the tightest"),
        pytest.param("0::/\n", {"cpu.max": "max 100000"}, None, id="no limit"),
        pytest.param("0::/\n", {}, None, id="no file"),
        pytest.param(
            "3:cpu,cpuacct:/docker/7\n2:cpuset:/\n",
            {"cpu,cpuacct/cpu.cfs_quota_us": "250000\n", "cpu,cpuacct/cpu.cfs_period_us": "100000\n"},
            2.5,
            id="version 1 in a container",
        ),
        pytest.param(
            "1:cpu:/\n0::/\n", {"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"}, None, id="-1"
        ),
    ],
)
def test_quota_of_the_control_groups(own: str, files: dict[str, str], cores: float | None, tmp_path: Path) -> None:
    assert cpu_quota(*control_groups(tmp_path, own, files)) == cores


def test_system_without_control_groups_has_no_quota(tmp_path: Path) -> None:
    assert cpu_quota(tmp_path, tmp_path / "missing") is None


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="no affinity on this system")
def test_cores_are_those_this_program_may_use(monkeypatch: pytest.MonkeyPatch) -> None:
    allowed = os.sched_getaffinity(0)
    try:
        os.sched_setaffinity(0, {min(allowed)})
        assert available_cores() == 1
    finally:
        os.sched_setaffinity(0, allowed)
    for quota, cores in ((None, 64), (2.0, 2), (1.2, 2), (0.1, 1), (99.0, 64)):
        monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(64)))
        monkeypatch.setattr(worker_count, "cpu_quota", lambda quota=quota: quota)
        assert available_cores() == cores


def test_number_of_workers_is_the_one_asked_for_or_the_cores() -> None:
    assert worker_count.worker_count(None) == available_cores()
    assert worker_count.worker_count(0) == 0
    with pytest.raises(UsageError, match="workers is 0; give 1"):
        worker_count.worker_count(0, at_least=1)
