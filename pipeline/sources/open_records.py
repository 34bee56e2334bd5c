"""Opening a set of images to convert or verify: a folder, ImageNet's tars, WebDataset, zips, parquet, a `.beton`."""

import itertools
import os
from collections.abc import Sequence
from pathlib import Path

from simsiam.pipeline.errors import ForeignFileError, UsageError
from simsiam.pipeline.paths import expand_home
from simsiam.pipeline.progress import Progress
from simsiam.pipeline.source import Records
from simsiam.pipeline.sources.archive_files import find_archives
from simsiam.pipeline.sources.archive_splits import refuse_several_splits
from simsiam.pipeline.sources.file_kind import Kind, describe_other, file_kind
from simsiam.pipeline.sources.file_pattern import expand, is_pattern
from simsiam.pipeline.sources.imagenet_devkit import refuse_devkit
from simsiam.pipeline.sources.missing_path import refuse_address, refuse_missing

_ADVICE = "give a folder, tars, zips, parquet files or a .beton file"


def open_records(path: str | Path, *, devkit: Path | None = None, progress: Progress | None = None) -> Records:
    """Open a set of images without reading any; its kind is recognised by its content.

    - a folder of images, whose sub-folders are the classes, or of tars, of zips, or of parquet files, which may lie up
      to two folders deeper;
    - ImageNet as downloaded: the tar of class tars, or the tar of validation images with its `devkit`, by default the
      one in the same folder;
    - WebDataset shards, which are tars of `KEY.jpg` and `KEY.cls`;
    - a tar or a zip of a folder of images, or a folder in it: `photos.zip/train`;
    - parquet files of images, as Hugging Face writes them;
    - a `.beton`.

    Several files are given by their folder, by `*` and `?`, or by braces as in a shell: `train-{0000..0146}.tar`. Files
    of several splits, such as train and test, are one set only where braces join them: `{train,test}-*.tar`.
    `progress` is called with (done, total) archives while they are listed.

    Raises UsageError, in one sentence that says what would help.
    """
    refuse_address(path)
    path, devkit = expand_home(path), expand_home(devkit) if devkit else None
    if path.is_dir():
        return _open_folder(path, devkit, progress)
    if path.exists():
        return _open_files([path], devkit, progress)
    archives, folder = _split_at_archive(path)
    return _open_files(_expand(archives), devkit, progress, folder)


def _open_files(files: Sequence[Path], devkit: Path | None, progress: Progress | None, folder: bytes = b"") -> Records:
    first_of: dict[Kind, Path] = {}
    for file in _existing(files):
        first_of.setdefault(file_kind(file), file)
    if len(first_of) > 1:
        raise UsageError(
            f"Only one kind of file can be read at a time, but {' and '.join(map(str, first_of.values()))} differ;"
            " give files of one kind."
        )
    (kind,) = first_of
    if kind == "tar":
        from simsiam.pipeline.sources.tar_layout import open_tars

        return open_tars(files, devkit, progress, folder)
    if kind == "zip":
        from simsiam.pipeline.sources.zip_images import ZipImages

        return ZipImages(files, devkit, progress, folder)
    refuse_devkit(devkit)
    if folder:
        raise UsageError(f"{files[0]} is a file without folders; give its path alone.")
    return _open_parquet(files) if kind == "parquet" else _open_beton(files)


def _open_folder(folder: Path, devkit: Path | None, progress: Progress | None) -> Records:
    from simsiam.pipeline.paths import printable_path
    from simsiam.pipeline.sources.folder_records import FolderRecords
    from simsiam.pipeline.sources.folder_walk import walk_folder
    from simsiam.pipeline.sources.image_folder import ImageFolder

    root = folder.absolute()
    try:
        listing, archives = walk_folder(root), find_archives(folder)
    except OSError:
        return ImageFolder(folder)  # raises, and says why the folder can't be listed
    if len(listing.paths) and archives:
        # An archive among images of its own folder is one more file there, not a set.
        parents = {root / os.fsdecode(path.rpartition(b"/")[0]) for path in listing.paths} - {root}
        archives = {
            kind: kept
            for kind, files in archives.items()
            if (kept := [file for file in files if file.absolute().parent not in parents])
        }
    examples = [printable_path(path) for path in itertools.islice(listing.paths, 1)]
    examples += [str(files[0].relative_to(folder)) for files in archives.values()]
    if len(examples) > 1:
        some = next(iter(archives.values()))[0]
        raise UsageError(
            f"{folder} holds {' and '.join(examples)}, but only one kind can be read: give the archives as"
            f" '{some.parent}/*{some.suffix}', or move the others away."
        )
    for files in archives.values():
        refuse_several_splits(_existing(files), folder)
        return _open_files(files, devkit, progress)
    refuse_devkit(devkit)
    if len(listing.paths) or listing.unreachable:
        return FolderRecords(root, listing)
    return ImageFolder(folder)  # raises, and says what the folder holds


def _existing(files: Sequence[Path]) -> Sequence[Path]:
    """Return the files; raises UsageError for one that doesn't exist."""
    for file in files:
        if not file.is_file():
            refuse_missing(file, _ADVICE)
    return files


def _open_beton(files: Sequence[Path]) -> Records:
    from simsiam.pipeline.beton.reader import Beton

    try:
        opened = Beton(files[0])
    except ForeignFileError:
        what = describe_other(files[0]) or f"is no tar, zip, parquet or .beton file; {_ADVICE}"
        raise UsageError(f"{files[0]} {what}.") from None
    if len(files) > 1:
        raise UsageError(f"{files[0]} and {len(files) - 1:,} more are .beton files, of which one is a set; give one.")
    return opened


def _open_parquet(files: Sequence[Path]) -> Records:
    from simsiam.pipeline.sources.image_parquet import ImageParquet

    return ImageParquet(files)


def _split_at_archive(path: Path) -> tuple[Path, bytes]:
    """Return the file, or the pattern of files, that a path leads into, and the folder in it; empty for none."""
    for parent in path.parents:
        found = itertools.chain.from_iterable(expand(parent)) if is_pattern(parent) else [parent]
        if any(file.is_file() for file in found):
            return parent, os.fsencode(path.relative_to(parent))
    return path, b""


def _expand(path: Path) -> list[Path]:
    """Return the files of a pattern, in its order; what one wildcard matches must be one split."""
    alternatives = expand(path) if is_pattern(path) else [[path]]
    for files in alternatives:
        if len(files) > 1:
            root = Path(os.path.commonpath([file.parent for file in files]))
            refuse_several_splits(_existing(files), root)
    files = list(itertools.chain.from_iterable(alternatives))
    if not files:
        raise UsageError(f"No file is called like {path}; {_ADVICE}.")
    return files
