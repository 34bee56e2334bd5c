"""Opening a set of images to convert or verify: a folder, ImageNet's tars, WebDataset, parquet files, a `.beton`."""

import itertools
import re
from collections.abc import Sequence
from pathlib import Path

from simsiam.pipeline.errors import ForeignFileError, UsageError
from simsiam.pipeline.paths import expand_home
from simsiam.pipeline.progress import Progress
from simsiam.pipeline.source import Records
from simsiam.pipeline.sources.imagenet_devkit import refuse_devkit

_ADVICE = "give a folder, tars, parquet files or a .beton file"

_RANGE = re.compile(r"\{(\d+)\.\.(\d+)\}")
_CHOICE = re.compile(r"\{([^{}]*,[^{}]*)\}")


def open_records(path: str | Path, *, devkit: Path | None = None, progress: Progress | None = None) -> Records:
    """Open a set of images without reading any; its kind is recognised by its content.

    - a folder of images, whose sub-folders are the classes, or of tars, or of parquet files;
    - ImageNet as downloaded: the tar of class tars, or the tar of validation images with its `devkit`, by default the
      one in the same folder;
    - WebDataset shards, which are tars of `KEY.jpg` and `KEY.cls`, or a tar of a folder of images;
    - parquet files of images, as Hugging Face writes them;
    - a `.beton`.

    Several files are given by their folder, by `*` and `?`, or by braces as in a shell: `train-{0000..0146}.tar`.
    `progress` is called with (done, total) tars while they are listed.

    Raises UsageError, in one sentence that says what would help.
    """
    path, devkit = expand_home(path), expand_home(devkit) if devkit else None
    if path.is_dir():
        return _open_folder(path, devkit, progress)
    return _open_files([path] if path.exists() else _expand(path), devkit, progress)


def _open_files(files: Sequence[Path], devkit: Path | None, progress: Progress | None) -> Records:
    for file in files:
        if not file.is_file():
            raise UsageError(f"There is no folder or file {file}; {_ADVICE}.")
    parquet = all(_is_parquet(file) for file in files)
    if parquet or (len(files) == 1 and not _is_tar(files[0])):
        refuse_devkit(devkit)
        return _open_parquet(files) if parquet else _open_beton(files[0])
    from simsiam.pipeline.sources.tar_layout import open_tars

    return open_tars(files, devkit, progress)


def _open_folder(folder: Path, devkit: Path | None, progress: Progress | None) -> Records:
    from simsiam.pipeline.paths import printable_path
    from simsiam.pipeline.sources.folder_records import FolderRecords
    from simsiam.pipeline.sources.folder_walk import walk_folder
    from simsiam.pipeline.sources.image_folder import ImageFolder

    try:
        root = folder.absolute()
        listing = walk_folder(root)
        parquet, tars = _archives(folder / "*.parquet"), _archives(folder / "*.tar")
        images = [printable_path(path) for path in itertools.islice(listing.paths, 1)]
        kinds = images + [file.name for file in (*parquet[:1], *tars[:1])]
        if len(kinds) > 1:
            raise UsageError(
                f"{folder} holds {' and '.join(kinds)}, but only one kind can be read: give the archives as"
                f" '{folder}/*{(parquet or tars)[0].suffix}', or move the others away."
            )
        if archives := parquet or tars:
            return _open_files(archives, devkit, progress)
        refuse_devkit(devkit)
        if len(listing.paths) or listing.unreachable:
            return FolderRecords(root, listing)
    except OSError:
        pass
    return ImageFolder(folder)  # raises, and says what is wrong with the folder


def _open_beton(file: Path) -> Records:
    from simsiam.pipeline.beton.reader import Beton

    try:
        return Beton(file)
    except ForeignFileError:
        raise UsageError(f"{file} is no tar, parquet or .beton file; {_ADVICE}.") from None


def _open_parquet(files: Sequence[Path]) -> Records:
    from simsiam.pipeline.sources.image_parquet import ImageParquet

    return ImageParquet(files)


def _is_parquet(file: Path) -> bool:
    with file.open("rb") as stream:
        return stream.read(4) == b"PAR1"


def _is_tar(file: Path) -> bool:
    """Return whether a file is a tar, by the magic of its first header, or by its name if it is older or damaged.

    A compressed file counts as a tar, and is refused as such later.
    """
    from simsiam.pipeline.sources.tar_index import unpacker

    with file.open("rb") as stream:
        head = stream.read(512)
    return head[257:262] == b"ustar" or unpacker(head) is not None or file.suffix == ".tar"


def _expand(path: Path) -> list[Path]:
    """Return the files that match a pattern: braces expand in their order, `*` and `?` in sorted order.

    Only the last part is a pattern if the folder before it exists.
    """
    folder = path.parent if path.parent.is_dir() else None
    patterns = [folder / name for name in _expand_braces(path.name)] if folder else map(Path, _expand_braces(str(path)))
    files = [file for one in patterns for file in (_matching(one) if re.search(r"[*?\[]", one.name) else [one])]
    if not files:
        raise UsageError(f"No file is called like {path}; {_ADVICE}.")
    return files


def _archives(pattern: Path) -> list[Path]:
    """Return the files of a folder with this ending; none if all of them are dangling links."""
    found = [path for path in _matching(pattern) if not path.is_dir()]
    return found if any(path.is_file() for path in found) else []


def _matching(pattern: Path) -> list[Path]:
    """Return what a shell would: hidden names only if the pattern starts with a dot."""
    hidden = pattern.name.startswith(".")
    return sorted(path for path in pattern.parent.glob(pattern.name) if hidden or not path.name.startswith("."))


def _expand_braces(pattern: str) -> Sequence[str]:
    found = _RANGE.search(pattern)
    if found:
        first, last = found[1], found[2]
        step = 1 if int(first) <= int(last) else -1
        parts = [str(number).zfill(len(first)) for number in range(int(first), int(last) + step, step)]
    elif found := _CHOICE.search(pattern):
        parts = found[1].split(",")
    else:
        return [pattern]
    head, tail = pattern[: found.start()], pattern[found.end() :]
    return list(itertools.chain.from_iterable(_expand_braces(head + part + tail) for part in parts))
