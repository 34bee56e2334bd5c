"""A source → a short text that other images would not have."""

import hashlib

import numpy as np

from simsiam.pipeline.source import Source

_NAMES = 1000  # evenly spread: asking for each of a million names would take seconds


def fingerprint(source: Source) -> str:
    """Return a hash of the images' sizes, labels, classes, and of the file names of up to 1,000 of them.

    The folder they lie in plays no part, so images may be moved. It takes 20 ms for a million images, and so can't
    see a change of the pixels alone.
    """
    count = len(source)
    some = np.unique(np.linspace(0, count - 1, min(count, _NAMES)).astype(np.int64)).tolist()
    names = [source.name(index).rpartition("/")[2] for index in some]
    digest = hashlib.sha256()
    for part in (
        np.ascontiguousarray(source.sizes, dtype="<i4").tobytes(),
        np.ascontiguousarray(source.labels, dtype="<i8").tobytes(),
        "\0".join([*source.classes, "", *names]).encode(errors="surrogateescape"),
    ):
        digest.update(len(part).to_bytes(8, "little"))
        digest.update(part)
    return digest.hexdigest()
