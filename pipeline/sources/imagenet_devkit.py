"""ImageNet's development kit: the class of every validation image, which isn't in their tar."""

import io
import re
import tarfile
from pathlib import Path
from typing import NamedTuple

from simsiam.pipeline.errors import MissingError, UsageError

DEVKIT = "ILSVRC2012_devkit_t12"
"""Name of the kit: the folder, or the download without `.tar.gz`."""
_TRUTH, _SYNSETS = "data/ILSVRC2012_validation_ground_truth.txt", "data/meta.mat"
_LARGEST = 64 << 20  # bytes; meta.mat has half a megabyte


def is_devkit(name: str) -> bool:
    """Return whether a file of this name is a development kit, of any year and task."""
    return re.match(r"ILSVRC\d+_devkit", name) is not None


class GroundTruth(NamedTuple):
    """The classes of the validation images."""

    classes: list[str]
    """WordNet ids such as n01440764, sorted: the order of the training set's folders."""
    labels: list[int]
    """Index in `classes` of ILSVRC2012_val_00000001.JPEG and those after it."""


def refuse_devkit(devkit: Path | None) -> None:
    """Raise UsageError when a devkit was given for a set that doesn't need it."""
    if devkit is not None:
        raise UsageError(
            f"The devkit {devkit} gives the classes of ImageNet's validation tar alone; leave it out for other sets.",
            argument="devkit",
        )


def read_ground_truth(devkit: Path) -> GroundTruth:
    """Read the kit, as downloaded (`.tar.gz`) or unpacked.

    The kit has its own class numbers, ILSVRC2012_ID 1 to 1000 of meta.mat, in another order than that of the WordNet
    ids. Synsets with children are not classes of images.

    Raises UsageError when a part of it is missing or damaged, and MissingError when SciPy, which reads MATLAB's
    format, isn't installed.
    """
    try:
        from scipy.io import loadmat
    except ImportError:
        raise MissingError(
            "Reading meta.mat of ImageNet's devkit needs SciPy; install it with: pip install scipy."
        ) from None
    truth, synsets = _read_parts(devkit)
    try:
        wnid_of = {
            int(synset["ILSVRC2012_ID"]): str(synset["WNID"])
            for synset in loadmat(io.BytesIO(synsets), simplify_cells=True)["synsets"]
            if int(synset["num_children"]) == 0
        }
        classes = sorted(wnid_of.values())
        label_of = {wnid: label for label, wnid in enumerate(classes)}
        return GroundTruth(classes, [label_of[wnid_of[int(line)]] for line in truth.split()])
    # SciPy raises nearly anything on damaged input.
    except Exception as error:
        raise UsageError(f"The devkit {devkit} is damaged ({error!r}); download it again.") from None


def _read_parts(devkit: Path) -> tuple[bytes, bytes]:
    try:
        if devkit.is_dir():
            return (devkit / _TRUTH).read_bytes(), (devkit / _SYNSETS).read_bytes()
        with tarfile.open(devkit) as tar:
            found = {}
            for member in tar:
                for part in (_TRUTH, _SYNSETS):
                    if member.isreg() and member.name.endswith(part) and member.size <= _LARGEST:
                        file = tar.extractfile(member)
                        assert file is not None
                        found[part] = file.read()
            return found[_TRUTH], found[_SYNSETS]
    except KeyError as error:
        raise UsageError(f"The devkit {devkit} has no {error.args[0]}; give {DEVKIT}.tar.gz.") from None
    except (OSError, EOFError, tarfile.TarError) as error:
        raise UsageError(f"Can't read the devkit {devkit}: {error}; give {DEVKIT}.tar.gz.") from None
