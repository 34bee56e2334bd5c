import torch

from simsiam.pipeline.augmentation import Augmentation
from simsiam.pipeline.loaders.synthetic_loader import SyntheticLoader
from simsiam.pipeline.plan import CropPlan


def test_nothing_is_read_and_every_step_is_the_same_tensor(pictures, monkeypatch) -> None:
    monkeypatch.setattr(type(pictures), "decode", lambda *_: 1 / 0)
    loader = SyntheticLoader(CropPlan(pictures, Augmentation(), 8, 3), torch.device("cpu"))
    steps = list(loader.epoch(0, first_step=1))
    assert len(steps) == 2
    assert steps[0].pixels.data_ptr() == steps[1].pixels.data_ptr()
    assert steps[0].pixels.float().std() > 60  # of uniform bytes: 74
