import json
import os

import pytest
import torch

from simsiam.pipeline.worker_count import available_cores
from simsiam.train.environment import describe_environment, package_version


def test_environment_goes_into_json() -> None:
    environment = describe_environment()
    assert json.loads(json.dumps(environment)) == environment
    assert set(environment) == {
        "packages",
        "python",
        "platform",
        "cpu",
        "cores",
        "gpus",
        "cuda",
        "torch_threads",
        "shared_memory_bytes",
    }
    assert environment["packages"]["torch"].partition("+")[0] == torch.__version__.partition("+")[0]
    assert {"simsiam", "torch", "torchvision", "numpy", "pillow"} <= environment["packages"].keys()
    assert environment["cpu"] and environment["cores"] >= 1


def test_packages_that_are_missing_are_skipped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("simsiam.train.environment.PACKAGES", ("numpy", "no-such-package"))
    assert list(describe_environment()["packages"]) == ["numpy"]


def test_version_of_a_missing_package_is_none() -> None:
    assert package_version("no-such-package") is None


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="this system can't bind a program to cores")
def test_cores_are_those_this_program_may_use() -> None:
    allowed = os.sched_getaffinity(0)
    try:
        os.sched_setaffinity(0, {min(allowed)})
        assert available_cores() == 1
    finally:
        os.sched_setaffinity(0, allowed)
    assert available_cores() == len(allowed)
