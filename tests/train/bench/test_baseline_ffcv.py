from itertools import islice
from pathlib import Path

import pytest
import torch

from simsiam.pipeline.sources.open_source import open_source

pytest.importorskip("ffcv", reason="FFCV isn't installed")
from simsiam.train.bench.baseline_ffcv import ffcv_two_view_loader, write_with_ffcv


def test_writer_writes_what_we_read_and_loader_takes_two_crops_of_it(tiny_images: Path, tmp_path: Path, capfd) -> None:
    out = tmp_path / "out.beton"
    assert write_with_ffcv(tiny_images / "train", out, max_side=20, quality=90, workers=2) == 48
    assert capfd.readouterr() == ("", "")
    written = open_source(out)
    assert len(written) == 48 and written.sizes.tolist() == [[20, 20]] * 48

    loader = ffcv_two_view_loader(out, 48, 30, 16, threads=1, steps=5, device=torch.device("cpu"))
    assert len(loader) == 5
    batches = iter(loader)
    for first, second in islice(batches, 5):
        assert first.shape == second.shape == (30, 16, 16, 3) and first.dtype == second.dtype == torch.uint8
        assert not torch.equal(first, second)
    assert next(batches, None) is None
