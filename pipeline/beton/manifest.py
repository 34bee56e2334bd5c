"""Manifest, the `.beton.json` next to a `.beton`: class and image names, settings, skipped images, checksums."""

import dataclasses
import json
import zlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from simsiam.pipeline.atomic_write import write_text_atomically
from simsiam.pipeline.errors import UsageError

FORMAT_VERSION = 2
_READ_VERSIONS = (1, 2)
"""Version 1 has no remarks."""


@dataclass(frozen=True)
class Manifest:
    """What a conversion wrote; its fields are the keys of the file. Size and checksum tell which `.beton` it is of."""

    simsiam_version: str
    """Version of the package that wrote the file."""
    images: int
    file_bytes: int
    """Size of the `.beton`."""
    index_crc32: int
    """CRC-32 of the file's header, field descriptors, metadata and allocation table."""
    page_size: int
    """Bytes that each entry of `page_crc32` covers, counted from the start of the file."""
    classes: list[str]
    """Class names by label; empty when the images are unlabelled."""
    settings: dict[str, Any]
    """How the images were reduced and encoded."""
    left_out: list[tuple[str, str]]
    """Name and reason of every image that was skipped."""
    page_crc32: list[int]
    """CRC-32 of each `page_size` bytes of the file; the last piece may be shorter."""
    names: list[str]
    """Name of each image in its source, in the order of the file."""
    remarks: list[tuple[str, str]] = field(default_factory=list)
    """Name and remark of images that are in the file and of which something is to be known, such as that all of their
    pixels have one colour, or that they were scaled to 8 bits; an image may have several."""

    def remarked(self, remark: str) -> int:
        """Return how many images have a remark."""
        return sum(text == remark for _, text in self.remarks)


def manifest_path(beton: Path) -> Path:
    """Return the path of a `.beton`'s manifest: NAME.beton.json."""
    return beton.with_name(beton.name + ".json")


def write_manifest(manifest: Manifest, beton: Path) -> None:
    """Write the manifest of `beton` atomically."""
    document = {"format": "simsiam beton manifest", "format_version": FORMAT_VERSION, **dataclasses.asdict(manifest)}
    # One entry per line keeps a list of a million names readable with ordinary tools.
    write_text_atomically(manifest_path(beton), json.dumps(document, indent=1) + "\n")


def read_manifest(beton: Path, images: int, file_bytes: int, index_crc32: int) -> Manifest | None:
    """Read the manifest of `beton`; None if it has none.

    Raises UsageError when the manifest is damaged or belongs to another file, by count, size or checksum.
    """
    path = manifest_path(beton)
    advice = f"convert again, or delete {path.name} to open the file without class names"
    try:
        document = json.loads(path.read_text(encoding="ascii"))
        version = document.pop("format_version")
        if version not in _READ_VERSIONS:
            raise UsageError(f"format version {version} is unknown, {' and '.join(map(str, _READ_VERSIONS))} are read")
        del document["format"]
        for key in document.keys() & {"left_out", "remarks"}:
            document[key] = [(name, text) for name, text in document[key]]
        manifest = Manifest(**document)
        _check_types(manifest)
    except FileNotFoundError:
        return None
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise UsageError(f"The manifest {path} is damaged ({error!r}); {advice}.") from None
    expected = (images, file_bytes, index_crc32)
    if (manifest.images, manifest.file_bytes, manifest.index_crc32) != expected or len(manifest.names) != images:
        raise UsageError(f"The manifest {path} belongs to another file than {beton.name}; {advice}.")
    return manifest


def page_checksums(data: bytes | bytearray | memoryview, page_size: int) -> list[int]:
    """Return the CRC-32 of each `page_size` bytes of `data`; the last piece may be shorter."""
    view = memoryview(data)
    return [zlib.crc32(view[start : start + page_size]) for start in range(0, len(view), page_size)]


def _check_types(manifest: Manifest) -> None:
    for key in ("images", "file_bytes", "index_crc32", "page_size"):
        if not isinstance(getattr(manifest, key), int):
            raise TypeError(f"{key} is no number")
    for key, kind in (("classes", str), ("names", str), ("page_crc32", int)):
        entries = getattr(manifest, key)
        if not isinstance(entries, list) or not all(isinstance(entry, kind) for entry in entries):
            raise TypeError(f"{key} is no list of {kind.__name__}")
