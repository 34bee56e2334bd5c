"""Lines about the images of a run, printed at its start: how many, what was judged of them, and what seems wrong."""

from collections.abc import Iterator
from pathlib import Path

from simsiam.pipeline.beton.reader import Beton
from simsiam.pipeline.one_colour import ONE_COLOUR, count_one_colour
from simsiam.pipeline.source import Source
from simsiam.train.terminal.words import counted


def image_lines(source: Source, path: Path) -> Iterator[str]:
    """Yield the lines about the set opened from `path`.

    Images of one colour are counted by a `.beton`'s manifest; where it lists none, or there is none, 16 images are
    decoded. To decode all of them is left to `simsiam verify`, and that is said.
    """
    broken = counted(len(source.broken), "broken one")
    skipped = f", {broken} skipped (simsiam verify lists them)" if source.broken else ""
    unread = "" if isinstance(source, Beton) else "; only their headers were read: simsiam verify decodes them all"
    yield f"Images: {len(source):,} in {path}{skipped}{unread}"
    manifest = source.manifest if isinstance(source, Beton) else None
    if manifest and (plain := manifest.remarked(ONE_COLOUR)):
        yield f"Images of one colour: {plain:,} of {len(source):,}, named in the manifest"
        return
    plain, decoded = count_one_colour(source)
    if plain:
        yield f"Images of one colour: {plain:,} of {decoded:,} that were decoded; simsiam verify counts them all"
