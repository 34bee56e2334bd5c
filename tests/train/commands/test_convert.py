import io
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from simsiam.pipeline.beton.reader import Beton
from simsiam.train.cli import run

WNIDS = ["n01440764", "n01443537"]


def jpeg(number: int) -> bytes:
    file = io.BytesIO()
    image = Image.new("RGB", (40 + number, 30), (number * 9, 40, 90))
    image.paste((200, 200, 9), (0, 0, 20, 30))
    image.save(file, "JPEG", quality=70)
    return file.getvalue()


@pytest.fixture
def validation_tar(tmp_path: Path) -> Path:
    with tarfile.open(tmp_path / "ILSVRC2012_img_val.tar", "w") as tar:
        for number in (1, 2, 3):
            member = tarfile.TarInfo(f"ILSVRC2012_val_{number:08d}.JPEG")
            member.size = len(jpeg(number))
            tar.addfile(member, io.BytesIO(jpeg(number)))
    return tmp_path / "ILSVRC2012_img_val.tar"


@pytest.fixture
def devkit(tmp_path: Path) -> Path:
    scipy_io = pytest.importorskip("scipy.io", reason="SciPy isn't installed")
    data = tmp_path / "kit" / "data"
    data.mkdir(parents=True)
    rows = np.array(
        [(1, WNIDS[1], 0), (2, WNIDS[0], 0)], [("ILSVRC2012_ID", "O"), ("WNID", "O"), ("num_children", "O")]
    )
    scipy_io.savemat(data / "meta.mat", {"synsets": rows[:, None]})
    (data / "ILSVRC2012_validation_ground_truth.txt").write_text("1\n2\n1\n")
    return tmp_path / "kit"


def test_imagenets_validation_tar_with_the_devkit(validation_tar: Path, devkit: Path, tmp_path: Path) -> None:
    out = tmp_path / "val.beton"
    assert run(["convert", str(validation_tar), str(out), "--devkit", str(devkit), "--check", "full"]) == 0
    beton = Beton(out)
    assert [beton.read(index) for index in range(3)] == [jpeg(1), jpeg(2), jpeg(3)]
    assert (list(beton.classes), beton.labels.tolist()) == (WNIDS, [1, 0, 1])


def test_without_the_devkit_it_is_wrong_usage_that_names_the_option(
    validation_tar: Path, tmp_path: Path, capsys
) -> None:
    out = tmp_path / "val.beton"
    assert run(["convert", str(validation_tar), str(out)]) == 2
    assert "the option is --devkit" in " ".join(capsys.readouterr().err.split())
    assert not out.exists()


def test_reencode_writes_other_bytes_of_the_same_size(validation_tar: Path, devkit: Path, tmp_path: Path) -> None:
    out = tmp_path / "val.beton"
    options = ["--devkit", str(devkit), "--reencode", "--quality", "95", "--workers", "1"]
    assert run(["convert", str(validation_tar), str(out), *options]) == 0
    beton = Beton(out)
    assert all(beton.read(index) != jpeg(index + 1) for index in range(3))
    assert beton.sizes.tolist() == [[30, 41], [30, 42], [30, 43]]


def test_counts_what_was_copied_and_names_twenty_skipped(tmp_path: Path, capsys) -> None:
    folder = tmp_path / "images" / "class"
    folder.mkdir(parents=True)
    (folder / "good.jpg").write_bytes(jpeg(1))
    Image.open(io.BytesIO(jpeg(2))).save(folder / "encoded.png")
    for number in range(25):
        (folder / f"{number:02d}.jpg").write_text("text")
    out = tmp_path / "out.beton"
    assert run(["convert", str(folder.parent), str(out)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("2 images, ")
    assert (
        lines[1]
        == f"1 was copied byte for byte, not decoded; simsiam verify {out} decodes them, and so does --check full"
    )
    assert lines[2].startswith(f"skipped: {folder}/00.jpg: ")
    assert lines[-1] == f"25 images were skipped; {out}.json lists them all"
    assert len(lines) == 2 + 20 + 1


def test_the_manifest_is_the_same_wherever_the_set_lies(tmp_path: Path) -> None:
    manifests = []
    for place in ("here", "there"):
        folder = tmp_path / place / "class"
        folder.mkdir(parents=True)
        (folder / "one.jpg").write_bytes(jpeg(1))
        (folder / "two.jpg").write_text("text")
        assert run(["convert", str(folder.parent), str(tmp_path / f"{place}.beton")]) == 0
        manifests.append((tmp_path / f"{place}.beton.json").read_text())
    assert manifests[0] == manifests[1]
    assert '"class/one.jpg"' in manifests[0]


def test_a_name_cannot_drive_the_terminal(tmp_path: Path, capsys) -> None:
    folder = tmp_path / "images" / "class"
    folder.mkdir(parents=True)
    (folder / "good.jpg").write_bytes(jpeg(1))
    (folder / "\x1b[31mbad\nskipped: evil.jpg").write_text("text")
    assert run(["convert", str(folder.parent), str(tmp_path / "out.beton")]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("1 image, ")
    assert lines[2].startswith(f"skipped: {folder}/\\x1b[31mbad\\nskipped: evil.jpg: ")
    assert lines[3:] == ["1 image was skipped"]


def test_deep_images_are_skipped_with_the_option_and_scaled_with_it(tmp_path: Path, capsys) -> None:
    folder = tmp_path / "images" / "class"
    folder.mkdir(parents=True)
    (folder / "good.jpg").write_bytes(jpeg(1))
    Image.fromarray(np.linspace(0, 4095, 900).reshape(30, 30).astype(np.uint16)).save(folder / "deep.tif")
    out = tmp_path / "out.beton"
    assert run(["convert", str(folder.parent), str(out)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[2].startswith(f"skipped: {folder}/deep.tif: ") and "values 0 to 4095" in lines[2]
    assert lines[3] == "1 image was skipped"
    assert "--intensity LOW,HIGH" in lines[4]
    assert run(["convert", str(folder.parent), str(out), "--overwrite", "--intensity", "0,4000"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("2 images, ")
    assert [line.partition(":")[0] for line in lines[2:]] == ["1 image", "1 image"]
    assert "scaled" in lines[2] and "clipped" in lines[3]


def test_a_set_of_deep_images_alone_is_refused_with_the_option(tmp_path: Path, capsys) -> None:
    Image.fromarray(np.full((3, 3), 777, np.uint16)).save(tmp_path / "deep.tif")
    assert run(["convert", str(tmp_path), str(tmp_path / "out.beton")]) == 2
    assert "the option is --intensity" in " ".join(capsys.readouterr().err.split())


def test_images_of_one_colour_are_counted(tmp_path: Path, capsys) -> None:
    (tmp_path / "good.jpg").write_bytes(jpeg(1))
    for number in (1, 2):
        Image.new("RGB", (30, 20), (9, 9, number)).save(tmp_path / f"plain-{number}.png")
    assert run(["convert", str(tmp_path), str(tmp_path / "out.beton")]) == 0
    assert "2 images: all pixels have one colour" in capsys.readouterr().out
