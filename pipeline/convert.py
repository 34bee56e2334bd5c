"""A Source of images → a `.beton` of reduced JPEGs with its manifest, and a report of what was left out."""

import contextlib
import io
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import NamedTuple

from PIL import Image, ImageOps

from simsiam.pipeline.beton import RawRecordError
from simsiam.pipeline.beton_manifest import Manifest, manifest_path, write_manifest
from simsiam.pipeline.beton_writer import BetonWriter, RecordTooLarge, Sealed
from simsiam.pipeline.decode import ImageError
from simsiam.pipeline.source import Source
from simsiam.pipeline.worker_pool import ordered_map

_ORIENTATION_TAG = 0x0112  # EXIF 2.32, table 4


@dataclass(frozen=True)
class Conversion:
    """What a conversion did."""

    path: Path
    count: int
    """Images written."""
    bytes_written: int
    """Size of the `.beton`."""
    seconds: float
    """Wall time of the whole conversion."""
    skipped: list[tuple[str, str]]
    """Name and reason of every image that was left out."""


class _Settings(NamedTuple):
    max_side: int | None
    quality: int
    apply_orientation: bool


class _Encoded(NamedTuple):
    jpeg: bytes
    height: int
    width: int


def convert(
    source: Source,
    out: str | Path,
    *,
    max_side: int | None = 500,
    quality: int = 90,
    workers: int | None = None,
    overwrite: bool = False,
    apply_orientation: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> Conversion:
    """Write the images of `source` to `out`, in order, with the manifest `OUT.json` beside it.

    Images whose longer side exceeds `max_side` pixels are reduced to it (None: never), then encoded as JPEG of
    `quality` 1 to 100 with 4:2:0 chroma. 500 and 90 are those of FFCV's ImageNet script for ResNet-50. Pixels are
    taken as stored unless `apply_orientation` turns them as their EXIF tag says; the result carries no EXIF.
    `workers` processes do the work, by default one a CPU this process may use; any number gives the same bytes.
    `progress` is called with the images done and their total after each.

    An image that can't be read is left out and reported. On any error nothing stands under `out`, or what stood
    there before does.

    Raises ValueError for a bad setting, an existing `out` without `overwrite`, or no readable image at all;
    OSError when the disk is full; RuntimeError naming the images in hand when a worker process dies.
    """
    started = time.perf_counter()
    out, settings = Path(out), _Settings(max_side, quality, apply_orientation)
    workers = len(os.sched_getaffinity(0)) if workers is None else workers
    _check(settings, workers, len(source))
    _make_folder(out.parent)
    skipped = list(source.broken)
    names, labels = [], source.labels
    results = ordered_map(partial(_encode, source, settings), len(source), workers, source.name)
    with BetonWriter(out, len(source), overwrite=overwrite) as writer, contextlib.closing(results):
        for index, result in enumerate(results):
            name = source.name(index)
            try:
                if isinstance(result, str):
                    skipped.append((name, result))
                else:
                    writer.append(*result, label=int(labels[index]))
                    names.append(name)
            except RecordTooLarge as error:
                skipped.append((name, str(error)))
            if progress:
                progress(index + 1, len(source))
        if not names:
            raise ValueError(f"None of the {len(skipped)} images can be read; the first is {': '.join(skipped[0])}.")
        sealed = writer.seal()
        manifest = _manifest(sealed, writer.page_size, settings, source.classes, names, skipped)
        _publish(writer, manifest)
    return Conversion(out, len(names), sealed.file_bytes, time.perf_counter() - started, skipped)


def _publish(writer: BetonWriter, manifest: Manifest) -> None:
    # The manifest first: after a crash between the two renames it stands alone, or beside an older file whose size
    # and checksum it contradicts. The other way round a file would silently open without its class names.
    write_manifest(manifest, writer.path)
    try:
        writer.finish()
    except BaseException:
        if not writer.path.exists():
            manifest_path(writer.path).unlink()
        raise


def _manifest(
    sealed: Sealed,
    page_size: int,
    settings: _Settings,
    classes: Sequence[str],
    names: list[str],
    skipped: list[tuple[str, str]],
) -> Manifest:
    return Manifest(
        simsiam_version=version("simsiam"),
        images=len(names),
        file_bytes=sealed.file_bytes,
        index_crc32=sealed.index_crc32,
        page_size=page_size,
        classes=list(classes),
        settings=settings._asdict(),
        left_out=skipped,
        page_crc32=sealed.page_crc32,
        names=names,
    )


def _encode(source: Source, settings: _Settings, index: int) -> _Encoded | str:
    """Decode, reduce and encode one image; a sentence when it can't be done."""
    try:
        image = Image.fromarray(source.decode(index))
        if settings.apply_orientation:
            # Pixels made from an array carry no EXIF; the tag alone is put back for Pillow to obey.
            image.getexif()[_ORIENTATION_TAG] = _orientation(source, index)
            image = ImageOps.exif_transpose(image)
        longest = max(image.size)
        if settings.max_side is not None and longest > settings.max_side:
            width, height = (max(1, round(side * settings.max_side / longest)) for side in image.size)
            image = image.resize((width, height), Image.Resampling.LANCZOS)
        encoded = io.BytesIO()
        image.save(encoded, "JPEG", quality=settings.quality, subsampling="4:2:0", exif=b"")
    except (ImageError, OSError) as error:
        return str(error).removeprefix(f"{source.name(index)}: ")
    return _Encoded(encoded.getvalue(), image.height, image.width)


def _orientation(source: Source, index: int) -> int:
    try:
        encoded = source.read(index)
    except RawRecordError:
        return 1
    with Image.open(io.BytesIO(encoded)) as image:
        return image.getexif().get(_ORIENTATION_TAG, 1)


def _check(settings: _Settings, workers: int, images: int) -> None:
    if settings.max_side is not None and settings.max_side < 1:
        raise ValueError(f"The longest side {settings.max_side} must be at least 1 pixel, or None for no limit.")
    if not 1 <= settings.quality <= 100:
        raise ValueError(f"The JPEG quality {settings.quality} must lie between 1 and 100.")
    if workers < 1:
        raise ValueError(f"Converting needs at least one worker process, not {workers}.")
    if not images:
        raise ValueError("There is no readable image to convert.")


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ValueError(f"Can't create the folder {folder}: {error.strerror}; choose another place.") from None
