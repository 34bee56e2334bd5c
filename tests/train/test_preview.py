import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from simsiam.kernels.augment import augment_views
from simsiam.pipeline.augmentation import Augmentation
from simsiam.pipeline.crops import Backend
from simsiam.pipeline.loaders.open_loader import open_loader
from simsiam.pipeline.loaders.reference_crop import crop_image
from simsiam.pipeline.plan import CropPlan
from simsiam.pipeline.sources.open_source import open_source
from simsiam.train import cli
from simsiam.train.commands.preview import run
from simsiam.train.preview import preview

GAP, HEADER, SIZE, COUNT = 6, 18, 32, 5
TILE = 96  # views of 32 pixels are shown three times as large
AUGMENTATION = Augmentation()


def cell(sheet: np.ndarray, row: int, column: int) -> np.ndarray:
    top, left = HEADER + GAP + row * (TILE + GAP), GAP + column * (TILE + GAP)
    tile = sheet[top : top + TILE, left : left + TILE]
    small = tile[::3, ::3]
    assert np.array_equal(tile, small.repeat(3, axis=0).repeat(3, axis=1))
    return small


@pytest.fixture(scope="module")
def sheet(tiny_images: Path, tmp_path_factory: pytest.TempPathFactory) -> np.ndarray:
    out = tmp_path_factory.mktemp("preview") / "new" / "grid.png"
    source = open_source(tiny_images / "train")
    written = preview(
        source, out, augmentation=AUGMENTATION, size=SIZE, count=COUNT, seed=3, epoch=2, backends=["torch"]
    )
    assert written == out and [path.name for path in out.parent.iterdir()] == ["grid.png"]
    with Image.open(out) as image:
        assert image.format == "PNG"
        return np.asarray(image)


def test_sheet_has_five_columns_and_a_row_an_image(sheet: np.ndarray) -> None:
    assert sheet.shape == (HEADER + GAP + COUNT * (TILE + GAP), GAP + 5 * (TILE + GAP), 3)


def test_crops_and_views_are_those_of_training(sheet: np.ndarray, tiny_images: Path) -> None:
    # The batch differs from the sheet's, and must not matter.
    plan = CropPlan(open_source(tiny_images / "train"), AUGMENTATION, SIZE, batch_size=16, seed=3)
    crops = next(open_loader("torch", plan, torch.device("cpu"), workers=0).epoch(2))
    views = augment_views(crops.pixels, crops.draws, mean=(0, 0, 0), std=(1, 1, 1)).permute(0, 2, 3, 1)
    for row in range(COUNT):
        for view in range(2):
            assert np.array_equal(cell(sheet, row, 1 + view), crops.pixels[row, view].numpy())
            expected = 255 * views[row + 16 * view].numpy()
            assert abs(cell(sheet, row, 3 + view) - expected).max() <= 0.501


def test_original_is_shown_with_its_boxes(sheet: np.ndarray, tiny_images: Path) -> None:
    plan = CropPlan(open_source(tiny_images / "train"), AUGMENTATION, SIZE, batch_size=16, seed=3)
    index = plan.indices(2, 0)
    draws = plan.draws(2, index)
    scale = SIZE / 24
    for row in range(COUNT):
        # The second box is drawn over the first.
        top, left, _, _ = draws.crop[row, 1]
        assert tuple(cell(sheet, row, 0)[int(top * scale), int(left * scale)]) == (0, 255, 255)
        original = Image.fromarray(plan.source.decode(int(index[row]))).resize((SIZE, SIZE))
        unlike = (cell(sheet, row, 0) != np.asarray(original)).any(axis=2)
        boxes = np.isin(cell(sheet, row, 0), (0, 255)).all(axis=2)
        assert unlike.any() and (boxes | ~unlike).all()


def test_a_view_without_pixels_is_refused(tiny_images: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="The size of a crop, 0, must lie between 1 and 4,096 pixels"):
        preview(open_source(tiny_images / "train"), tmp_path / "p.png", augmentation=AUGMENTATION, size=0)


@pytest.mark.parametrize("count", [0, 49])
def test_more_images_than_there_are_is_refused(tiny_images: Path, tmp_path: Path, count: int) -> None:
    with pytest.raises(ValueError, match=f"{count} images can't be shown of 48; give a count of 1 to 48"):
        preview(open_source(tiny_images / "train"), tmp_path / "p.png", augmentation=AUGMENTATION, size=16, count=count)


def test_beton_is_previewed_like_its_folder(tiny_images: Path, tmp_path: Path) -> None:
    from simsiam.pipeline.beton.convert import convert

    convert(open_source(tiny_images / "test"), tmp_path / "test.beton", workers=1)
    out = preview(open_source(tmp_path / "test.beton"), tmp_path / "p.png", augmentation=AUGMENTATION, size=16, count=3)
    assert out.stat().st_size > 0


def test_backends_stand_side_by_side_with_the_same_draws(tiny_images: Path, tmp_path: Path) -> None:
    source = open_source(tiny_images / "train")
    facts: dict[str, Any] = {"augmentation": AUGMENTATION, "size": SIZE, "count": 3, "seed": 1, "epoch": 1}
    choices: dict[str, list[Backend]] = {"a": ["torch"], "b": ["resident"], "both": ["torch", "resident"]}
    sheets = {}
    for name, backends in choices.items():
        with Image.open(preview(source, tmp_path / f"{name}.png", backends=backends, **facts)) as image:
            sheets[name] = np.asarray(image)
    assert sheets["both"].shape[1] == GAP + 9 * (TILE + GAP)
    for row in range(3):
        assert np.array_equal(cell(sheets["both"], row, 0), cell(sheets["a"], row, 0))
        for picture in range(4):
            torch_cell, resident_cell = (cell(sheets[name], row, 1 + picture) for name in "ab")
            assert np.array_equal(cell(sheets["both"], row, 1 + 2 * picture), torch_cell)
            assert np.array_equal(cell(sheets["both"], row, 2 + 2 * picture), resident_cell)
            assert abs(torch_cell.astype(int) - resident_cell).mean() < 4


def test_auto_is_the_backend_that_pretrain_would_take(tiny_images: Path, tmp_path: Path) -> None:
    choices: dict[str, list[Backend]] = {"a": ["auto"], "b": ["resident"], "c": ["resident", "auto"]}
    source = open_source(tiny_images / "train")
    for name, backends in choices.items():
        preview(source, tmp_path / name, augmentation=AUGMENTATION, size=SIZE, count=2, backends=backends)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes() == (tmp_path / "c").read_bytes()


def test_progress_is_that_of_the_backend_that_reads_everything(tiny_images: Path, tmp_path: Path) -> None:
    calls: list[tuple[int, int]] = []
    facts: dict[str, Any] = {"augmentation": AUGMENTATION, "size": SIZE, "count": 2, "backends": ["resident"]}
    preview(open_source(tiny_images / "train"), tmp_path / "p", progress=lambda *call: calls.append(call), **facts)
    assert calls[-1] == (48, 48)


def test_no_backend_is_refused(tiny_images: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="No backend is named"):
        preview(open_source(tiny_images / "train"), tmp_path / "p.png", augmentation=AUGMENTATION, backends=[])


def test_command_takes_several_backends(tiny_images: Path, tmp_path: Path) -> None:
    out = tmp_path / "p.png"
    options = f"--size 32 --count 2 --out {out} --backend torch,resident"
    assert run([str(tiny_images / "train"), *options.split()], "simsiam preview") == 0
    with Image.open(out) as image:
        assert image.width == GAP + 9 * (TILE + GAP)


def test_command_refuses_an_unknown_backend(tiny_images: Path) -> None:
    with pytest.raises(ValueError, match=r'"fcv" for --backend\. Choose from: "auto", "torch"'):
        run([str(tiny_images / "train"), "--backend", "torch,fcv"], "simsiam preview")


def test_a_broken_image_is_an_error_with_advice_or_replaced(
    tiny_images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(tiny_images / "train", tmp_path / "images")
    source = open_source(tmp_path / "images")
    first = int(CropPlan(source, AUGMENTATION, SIZE, COUNT, seed=3).indices(0, 0)[0])
    data = source.read(first)
    Path(source.name(first)).write_bytes(data[:-42] + b"\xf7" * 40 + data[-2:])  # its end still looks good
    command = [str(tmp_path / "images"), "--out", str(tmp_path / "a.png"), "--seed=3", "--size=32", f"--count={COUNT}"]
    assert cli.run(["preview", *command]) == 1
    told = capsys.readouterr().err
    assert source.name(first) in told
    assert told.endswith(
        "; take it out (simsiam verify lists all such images), or continue without it: --on-broken replace\n"
    )
    assert cli.run(["preview", *command, "--on-broken", "replace", "--backend=torch"]) == 0
    with Image.open(tmp_path / "a.png") as image:
        sheet = np.asarray(image)
    whole = CropPlan(open_source(tiny_images / "train"), AUGMENTATION, SIZE, COUNT, seed=3)
    (boxes,) = whole.draws(0, np.array([first + 1])).crop
    for view, box in enumerate(boxes):
        assert np.array_equal(cell(sheet, 0, 1 + view), crop_image(whole.source.decode(first + 1), box, SIZE))


def test_large_views_are_shown_smaller(tiny_images: Path, tmp_path: Path) -> None:
    source = open_source(tiny_images / "train")
    out = preview(source, tmp_path / "a.png", augmentation=AUGMENTATION, size=1024, count=1, backends=["torch"])
    with Image.open(out) as image:
        assert image.size == (GAP + 5 * (512 + GAP), HEADER + GAP + 512 + GAP)
        tile = np.asarray(image)[HEADER + GAP :, 512 + 2 * GAP :][:512, :512].astype(float)
    plan = CropPlan(source, AUGMENTATION, 1024, 1)
    crop = next(open_loader("torch", plan, torch.device("cpu"), workers=0).epoch(0)).pixels[0, 0].numpy()
    assert np.abs(tile - crop.reshape(512, 2, 512, 2, 3).mean(axis=(1, 3))).max() <= 1


@pytest.mark.parametrize("size", [(1, 3000), (3000, 1), (1, 1)])
def test_thin_images_are_shown(tmp_path: Path, size: tuple[int, int]) -> None:
    (tmp_path / "images").mkdir()
    Image.new("RGB", size, "green").save(tmp_path / "images" / "a.png")
    source = open_source(tmp_path / "images")
    out = preview(source, tmp_path / "a.png", augmentation=AUGMENTATION, size=32, count=1, backends=["torch"])
    with Image.open(out) as image:
        assert (cell(np.asarray(image), 0, 1) == (0, 128, 0)).all()
