from pathlib import Path

import pytest

from simsiam.pipeline.errors import DeadLoaderWorkerError, DeadWorkerError, ImageError
from simsiam.train.terminal.advice import broken_image_advice, dead_worker_advice


@pytest.mark.parametrize(("kind", "remedy"), [("folder", "take it out"), ("file", "convert the images again")])
def test_a_broken_image_is_taken_out_or_replaced(tmp_path: Path, kind: str, remedy: str) -> None:
    source = tmp_path / kind
    source.mkdir() if kind == "folder" else source.touch()
    with pytest.raises(ImageError) as caught, broken_image_advice(source, "error", "--on-broken replace"):
        raise ImageError("a.jpg: the file is empty")
    (note,) = caught.value.__notes__
    assert note.startswith(remedy) and note.endswith(": --on-broken replace")


def test_where_broken_images_are_replaced_already_nothing_is_added(tmp_path: Path) -> None:
    with pytest.raises(ImageError) as caught, broken_image_advice(tmp_path, "replace", "--on-broken replace"):
        raise ImageError("every image is broken")
    assert not hasattr(caught.value, "__notes__")


@pytest.mark.parametrize(("kind", "told"), [(DeadWorkerError, False), (DeadLoaderWorkerError, True)])
def test_only_workers_of_the_named_kind_get_their_options(kind: type[DeadWorkerError], told: bool) -> None:
    with pytest.raises(kind) as caught, dead_worker_advice(DeadLoaderWorkerError, "fewer --data.workers"):
        raise kind("A process died.")
    assert any("fewer --data.workers" in note for note in getattr(caught.value, "__notes__", [])) == told
