"""Encoded images of any set → a `.beton` of JPEGs with its manifest, and a report of what was left out."""

import contextlib
import dataclasses
import hashlib
import json
import os
import pickle
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import cast

from PIL import features

from simsiam.pipeline.beton.manifest import Manifest, manifest_path, write_manifest
from simsiam.pipeline.beton.transcode import Check, Encoded, Transcoding, encode_pixels, transcode
from simsiam.pipeline.beton.writer import BetonWriter, RecordTooLarge, Sealed
from simsiam.pipeline.errors import ImageError, RawRecordError, UsageError
from simsiam.pipeline.source import Records, Source
from simsiam.pipeline.worker_pool import ordered_map

_BATCH = 8
"""Images for one message between processes."""


@dataclass(frozen=True)
class Conversion:
    """What a conversion did."""

    path: Path
    count: int
    """Images written."""
    copied: int
    """Images whose bytes this call copied; it encoded the others that it wrote."""
    bytes_written: int
    """Size of the `.beton`."""
    seconds: float
    """Wall time of the whole conversion."""
    skipped: list[tuple[str, str]]
    """Name and reason of every image that was left out."""
    taken_over: int
    """Images of the set that an interrupted conversion had done already."""


def convert(
    images: Records,
    out: str | Path,
    *,
    max_side: int | None = 500,
    quality: int = 90,
    apply_orientation: bool = False,
    reencode: bool = False,
    check: Check = "markers",
    workers: int | None = None,
    overwrite: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> Conversion:
    """Write `images` to `out`, in order, with the manifest `OUT.json` beside it.

    Images whose longer side is above `max_side` pixels are reduced to it (None: never). A usual JPEG that needs no
    change is copied, unless `reencode` is set; the others get a JPEG of `quality` 1 to 100. 500 and 90 are those of
    FFCV's ImageNet script for ResNet-50. Pixels are taken as stored, unless `apply_orientation` turns them as their
    EXIF tag says. `transcode` has the details. What is copied is checked by its markers, or by decoding it if `check`
    is `full`.

    `workers` processes do the work, by default one a CPU this process may use; any number gives the same bytes.
    `progress` is called with the images done and their total after each.

    An image that can't be read is left out and reported. On any error nothing stands under `out`, or what stood
    there before does. Whatever ended it (an interruption, a full disk, a dead worker, a kill -9), the same call goes on
    where the last complete page ended, and ends with the same bytes as one that was never ended. It goes further back
    where an image that was left out can be read now, and starts over, with a warning that says why, where a setting or
    size or date of a file is another one.

    Raises UsageError for a bad setting, an existing `out` without `overwrite`, or no readable image at all; OSError
    when the disk is full; RunError naming the image in hand when a worker process dies.
    """
    started = time.perf_counter()
    out, how = Path(out), Transcoding(max_side, quality, apply_orientation, reencode, check)
    workers = len(os.sched_getaffinity(0)) if workers is None else workers
    if workers < 1:
        raise UsageError(f"Converting needs at least one worker process, not {workers}.")
    if not len(images):
        raise UsageError("There is no readable image to convert.")
    _make_folder(out.parent)
    labels = images.labels

    def left_out_still(place: int) -> str | None:
        result = _transcode(images, place, how)
        return result if isinstance(result, str) else None

    key = _key(images, how)
    with BetonWriter(out, len(images), overwrite=overwrite, journal_key=key, left_out_still=left_out_still) as writer:
        if writer.started_over:
            reason = f"an earlier conversion to {out} can't be gone on with: {writer.started_over}"
            warnings.warn(f"Starting over, since {reason}.", stacklevel=2)
        first, copied = writer.position, 0
        results = ordered_map(
            lambda task: _transcode(images, first + task, how),
            len(images) - first,
            workers,
            lambda task: images.name(first + task),
            batch=_BATCH,
        )
        with contextlib.closing(results):
            for index, result in enumerate(results, first):
                copied += _write(writer, result, int(labels[index]))
                if progress:
                    progress(index + 1, len(images))
        skipped = [*images.broken, *((images.name(place), reason) for place, reason in writer.left_out)]
        if not writer.count:
            raise UsageError(f"None of the {len(skipped)} images can be read; the first is {': '.join(skipped[0])}.")
        sealed = writer.seal()
        _publish(writer, _manifest(writer, sealed, images, how, skipped))
    return Conversion(out, writer.count, copied, sealed.file_bytes, time.perf_counter() - started, skipped, first)


# An `Encoded` on its way between processes.
_Sent = tuple[pickle.PickleBuffer, int, int, bool]


def _transcode(images: Records, index: int, how: Transcoding) -> _Sent | str:
    """Return the JPEG of one image; a sentence when there is none."""
    name = images.name(index)
    try:
        jpeg, height, width, copied = _transcode_record(images, index, name, how)
    except ImageError as error:
        return str(error).removeprefix(f"{name}: ")
    return pickle.PickleBuffer(jpeg), height, width, copied


def _transcode_record(images: Records, index: int, name: str, how: Transcoding) -> Encoded:
    try:
        encoded = images.read(index)
    except RawRecordError:
        # Only a `.beton`, a Source, has such.
        return encode_pixels(cast(Source, images).decode(index), how)
    return transcode(encoded, name, how)


def _write(writer: BetonWriter, result: _Sent | str, label: int) -> bool:
    """Add an image to the file; returns whether it was copied."""
    if isinstance(result, str):
        writer.leave_out(result)
        return False
    jpeg, height, width, copied = result
    try:
        writer.append(memoryview(jpeg), height, width, label)
    except RecordTooLarge as error:
        writer.leave_out(str(error))
        return False
    return copied


def _publish(writer: BetonWriter, manifest: Manifest) -> None:
    # The manifest first: after a crash between the two renames it stands alone, or beside an older file whose size
    # and checksum it contradicts. The other way round a file would silently open without its class names.
    place = manifest_path(writer.path)
    before = place.read_bytes() if place.exists() else None
    write_manifest(manifest, writer.path)
    try:
        writer.finish()
    except BaseException:
        if writer.part.exists():  # so that what stood there before does still
            place.unlink() if before is None else place.write_bytes(before)
        raise


def _manifest(
    writer: BetonWriter, sealed: Sealed, images: Records, how: Transcoding, skipped: list[tuple[str, str]]
) -> Manifest:
    left_out = {place for place, _ in writer.left_out}
    return Manifest(
        simsiam_version=version("simsiam"),
        images=writer.count,
        file_bytes=sealed.file_bytes,
        index_crc32=sealed.index_crc32,
        page_size=writer.page_size,
        classes=list(images.classes),
        settings=dataclasses.asdict(how),
        left_out=[(name.removeprefix(images.place), reason) for name, reason in skipped],
        page_crc32=sealed.page_crc32,
        names=[_name(images, index) for index in range(len(images)) if index not in left_out],
    )


def _key(images: Records, how: Transcoding) -> dict[str, str]:
    """Return what the bytes of the `.beton` depend on; of the images' own bytes, the files' sizes and dates must do."""
    software = [version("simsiam"), version("pillow"), version("simplejpeg"), features.version("jpg")]
    names = hashlib.sha256(json.dumps([list(images.classes), list(images.broken)]).encode())
    names.update(images.labels.tobytes())
    for index in range(len(images)):
        names.update(_name(images, index).encode() + b"\0")
    return {
        "the software's versions": json.dumps(software),
        "the settings": json.dumps(dataclasses.asdict(how)),
        "the place of the images": images.place,
        "the images' names or classes": names.hexdigest(),
        "the files' sizes or dates": images.stamp,
    }


def _name(images: Records, index: int) -> str:
    """Return an image's name, the same wherever the set lies."""
    return images.name(index).removeprefix(images.place)


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"Can't create the folder {folder}: {error.strerror}; choose another place.") from None
