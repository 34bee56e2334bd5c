"""Conversion: encoded images of any set → a `.beton` of JPEGs with its manifest, and a report of what was skipped."""

import contextlib
import dataclasses
import hashlib
import json
import pickle
import time
import warnings
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

from PIL import features

from simsiam.pipeline.beton.manifest import Manifest, manifest_path, write_manifest
from simsiam.pipeline.beton.transcode import Encoded, Transcoding, encode_pixels, transcode
from simsiam.pipeline.beton.writer import BetonWriter, RecordTooLarge, Sealed
from simsiam.pipeline.errors import ImageError, RawRecordError, UsageError
from simsiam.pipeline.intensity import ADVICE
from simsiam.pipeline.paths import expand_home
from simsiam.pipeline.progress import Progress
from simsiam.pipeline.source import Records
from simsiam.pipeline.worker_count import worker_count
from simsiam.pipeline.worker_pool import ordered_map

_BATCH = 8
"""Images per message between processes."""


@dataclass(frozen=True)
class Conversion:
    """What a conversion did."""

    path: Path
    count: int
    """Images written."""
    copied: int
    """Images whose bytes this call copied; the others it wrote, it encoded."""
    bytes_written: int
    """Size of the `.beton`."""
    seconds: float
    """Wall time of the whole conversion."""
    skipped: list[tuple[str, str]]
    """Name and reason of every image that was skipped."""
    taken_over: int
    """Images of the set that an interrupted conversion had done before, skipped ones included."""
    remarks: list[tuple[str, str]]
    """Name and remark of images that were written: `ONE_COLOUR`, `SCALED` or `CLIPPED`; an image may have several."""


def convert(
    images: Records,
    out: str | Path,
    how: Transcoding = Transcoding(),  # noqa: B008 - frozen, so that nobody can change the default
    *,
    workers: int | None = None,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> Conversion:
    """Write `images` to `out`, in order, with the manifest `OUT.json` next to it.

    An image that can't be read is skipped and reported. After any error, `out` doesn't exist, or is the file that was
    there before. If a conversion was ended by whatever cause (an interruption, a full disk, a dead worker, a kill -9),
    the same call resumes at the end of the last complete page, and the file gets the same bytes as without the
    interruption. It resumes earlier if an image that was skipped can be read now, and starts over, with a warning that
    says why, if a setting, or the size or date of a file, has changed.

    Args:
        images: The set.
        out: The file to write; missing folders are created.
        how: How images become JPEGs.
        workers: Processes, by default one for each core this program may use; any number gives the same bytes.
        overwrite: Replace an existing `out`.
        progress: Called with (done, total) images.

    Raises:
        UsageError: A bad number of workers, an existing `out` without `overwrite`, or no readable image at all.
        OSError: The disk is full or fails.
        DeadWorkerError: A worker process died; the message names the image it was working on.
    """
    started = time.perf_counter()
    out = expand_home(out)
    workers = worker_count(workers, at_least=1)
    if not len(images):
        raise UsageError("There is no readable image to convert.")
    _make_folder(out.parent)
    labels = images.labels

    def still_broken(index: int) -> str | None:
        result = _transcode(images, index, how)
        return result if isinstance(result, str) else None

    key = _key(images, how)
    with BetonWriter(out, len(images), overwrite=overwrite, journal_key=key, still_broken=still_broken) as writer:
        if writer.started_over:
            reason = f"an earlier conversion to {out} can't be resumed: {writer.started_over}"
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
        skipped = [*images.broken, *((images.name(index), reason) for index, reason in writer.skipped)]
        if not writer.count:
            first_of_all = f"None of the {len(skipped)} images can be read; the first is {': '.join(skipped[0])}."
            raise UsageError(first_of_all, argument="intensity" if ADVICE in skipped[0][1] else None)
        sealed = writer.seal()
        _publish(writer, _manifest(writer, sealed, images, how, skipped))
    remarks = [(images.name(index), remark) for index, remark in writer.remarks]
    seconds = time.perf_counter() - started
    return Conversion(out, writer.count, copied, sealed.file_bytes, seconds, skipped, first, remarks)


# An `Encoded`, sent between processes.
_Sent = tuple[pickle.PickleBuffer, int, int, bool, tuple[str, ...]]


def _transcode(images: Records, index: int, how: Transcoding) -> _Sent | str:
    """Return the JPEG of one image, or the reason why it has none."""
    name = images.name(index)
    try:
        jpeg, height, width, copied, remarks = _transcode_record(images, index, name, how)
    except ImageError as error:
        return str(error).removeprefix(f"{name}: ")
    return pickle.PickleBuffer(jpeg), height, width, copied, remarks


def _transcode_record(images: Records, index: int, name: str, how: Transcoding) -> Encoded:
    try:
        encoded = images.read(index)
    except RawRecordError:
        return encode_pixels(images.decode(index), how)
    return transcode(encoded, name, how)


def _write(writer: BetonWriter, result: _Sent | str, label: int) -> bool:
    """Add an image to the file or skip it; return whether its bytes were copied."""
    if isinstance(result, str):
        writer.skip(result)
        return False
    jpeg, height, width, copied, remarks = result
    try:
        writer.append(memoryview(jpeg), height, width, label, remarks)
    except RecordTooLarge as error:
        writer.skip(str(error))
        return False
    return copied


def _publish(writer: BetonWriter, manifest: Manifest) -> None:
    # The manifest first: after a crash between the two renames it is alone, or next to an older file whose size and
    # checksum it contradicts. The other way round, a file would silently open without its class names.
    path = manifest_path(writer.path)
    before = path.read_bytes() if path.exists() else None
    write_manifest(manifest, writer.path)
    try:
        writer.finish()
    except BaseException:
        if writer.part.exists():  # it was not renamed, so the older file is still there
            path.unlink() if before is None else path.write_bytes(before)
        raise


def _manifest(
    writer: BetonWriter, sealed: Sealed, images: Records, how: Transcoding, skipped: list[tuple[str, str]]
) -> Manifest:
    without = {index for index, _ in writer.skipped}
    return Manifest(
        simsiam_version=version("simsiam"),
        images=writer.count,
        file_bytes=sealed.file_bytes,
        index_crc32=sealed.index_crc32,
        page_size=writer.page_size,
        classes=list(images.classes),
        settings=dataclasses.asdict(how),
        left_out=[(name.removeprefix(images.name_prefix), reason) for name, reason in skipped],
        page_crc32=sealed.page_crc32,
        names=[_name(images, index) for index in range(len(images)) if index not in without],
        remarks=[(_name(images, index), remark) for index, remark in writer.remarks],
    )


def _key(images: Records, how: Transcoding) -> dict[str, str]:
    """Return what the bytes of the `.beton` depend on, with sizes and dates of the files instead of their content.

    The keys are part of journals on disk, and of the warning that says what has changed.
    """
    software = [version("simsiam"), version("pillow"), version("simplejpeg"), features.version("jpg")]
    names = hashlib.sha256(json.dumps([list(images.classes), list(images.broken)]).encode())
    names.update(images.labels.tobytes())
    for index in range(len(images)):
        names.update(_name(images, index).encode() + b"\0")
    return {
        "the software's versions": json.dumps(software),
        "the settings": json.dumps(dataclasses.asdict(how)),
        "the place of the images": images.name_prefix,
        "the images' names or classes": names.hexdigest(),
        "the files' sizes or dates": images.files_hash,
    }


def _name(images: Records, index: int) -> str:
    """Return an image's name, the same wherever the set is stored."""
    return images.name(index).removeprefix(images.name_prefix)


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"Can't create the folder {folder}: {error.strerror}; choose another one.") from None
