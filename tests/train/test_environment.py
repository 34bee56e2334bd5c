import json
import os

import pytest
import torch

from simsiam.train.environment import describe_environment, describe_load, package_version


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
        "openmp",
        "load",
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


def test_how_threads_wait_is_told_if_it_was_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GOMP_SPINCOUNT", "7")
    assert describe_environment()["openmp"]["GOMP_SPINCOUNT"] == "7"
    monkeypatch.delenv("GOMP_SPINCOUNT")
    assert "GOMP_SPINCOUNT" not in describe_environment()["openmp"]


@pytest.mark.parametrize(("load", "is_told"), [(0.4, False), (1.0, True), (3.1, True)])
def test_load_of_other_programs_is_told(load: float, is_told: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "getloadavg", lambda: (load, 0, 0))
    said = describe_load(cores=2)
    assert (said is not None) == is_told
    assert said is None or f"{load} on 2 cores" in said
