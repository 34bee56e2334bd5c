import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from simsiam.pipeline.sources.open_source import open_source

# In a process of its own, as in the bench: FFCV's Loader makes numba's type of byte arrays, one for all of a process,
# read-only, and functions that were compiled for it before are not found any more.
_PROGRAM = """
import sys
from itertools import islice
from pathlib import Path
import torch
from simsiam.train.bench.baseline_ffcv import ffcv_two_view_loader, write_with_ffcv

images, out = map(Path, sys.argv[1:])
assert write_with_ffcv(images, out, max_side=20, quality=90, workers=2) == 48
loader = ffcv_two_view_loader(out, 48, 30, 16, threads=1, steps=5, device=torch.device("cpu"))
assert len(loader) == 5
batches = iter(loader)
for first, second in islice(batches, 5):
    assert first.shape == second.shape == (30, 16, 16, 3) and first.dtype == second.dtype == torch.uint8
    assert not torch.equal(first, second)
assert next(batches, None) is None
"""


@pytest.mark.skipif(find_spec("ffcv") is None, reason="FFCV isn't installed")
def test_writer_writes_what_we_read_and_loader_takes_two_crops_of_it(tiny_images: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.beton"
    command = [sys.executable, "-c", _PROGRAM, str(tiny_images / "train"), str(out)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    written = open_source(out)
    assert len(written) == 48 and written.sizes.tolist() == [[20, 20]] * 48
