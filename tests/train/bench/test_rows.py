from pathlib import Path

import pytest

from simsiam.pipeline.errors import UsageError
from simsiam.train.bench.rows import ConvertRowName, LoaderRowName, check_loader_row, check_package


@pytest.mark.parametrize("name", ["imagefolder-pil", "imagefolder-pil-crops"])
def test_a_row_of_torchvision_needs_a_folder_next_to_a_beton(name: LoaderRowName, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=rf"{name} reads a folder of images, and .*x\.beton is none; give that folder"):
        check_loader_row(name, tmp_path / "x.beton", None, gpu=False)
    check_loader_row(name, tmp_path / "x.beton", tmp_path, gpu=False)


def test_the_row_of_ffcv_needs_a_beton(tmp_path: Path, installed_ffcv: None) -> None:
    with pytest.raises(UsageError, match=r"reads a \.beton file, and .* is a folder"):
        check_loader_row("ffcv-loader", tmp_path, tmp_path, gpu=False)
    check_loader_row("ffcv-loader", tmp_path / "x.beton", None, gpu=False)


@pytest.mark.parametrize("name", ["ffcv-loader", "ffcv-writer"])
def test_missing_ffcv_is_named(name: LoaderRowName | ConvertRowName, missing_ffcv: None) -> None:
    with pytest.raises(UsageError, match=f"The row {name} needs the package ffcv, which isn't installed"):
        check_package(name)


def test_copies_need_a_gpu(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="the device is the CPU"):
        check_loader_row("copies", tmp_path, None, gpu=False)
    check_loader_row("copies", tmp_path, None, gpu=True)
