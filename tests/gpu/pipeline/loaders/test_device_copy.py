import pytest
import torch

if not torch.cuda.is_available():
    pytest.skip("PyTorch sees no GPU", allow_module_level=True)

from simsiam.pipeline.augmentation import Draws
from simsiam.pipeline.crops import Crops
from simsiam.pipeline.loaders.device_copy import DeviceCopy

GPU = torch.device("cuda")


def crops(value: int) -> Crops:
    numbers = torch.full((64,), float(value)).pin_memory()
    index = torch.full((64,), value).pin_memory()
    pixels = torch.full((64, 2, 64, 64, 3), value, dtype=torch.uint8).pin_memory()
    return Crops(pixels, Draws(*(numbers for _ in Draws._fields)), index, index)


def test_what_is_handed_over_is_what_was_copied_however_busy_the_device_is() -> None:
    copy, left = DeviceCopy(GPU), torch.randn(4096, 4096, device=GPU)
    sums = []
    for value in range(40):
        here = copy.hand_over(copy.start(crops(value)))
        for _ in range(5):
            left = left @ left / 64  # keeps the consumer's stream behind the copies
        sums.append(torch.stack([here.pixels.float().mean(), here.draws[0].mean(), here.index.float().mean()]))
        del here  # its memory is taken again while the device still reads from it
    expected = torch.arange(40, device=GPU)[:, None].expand(40, 3).float()
    torch.testing.assert_close(torch.stack(sums), expected)
