import json

import pytest
import torch

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
