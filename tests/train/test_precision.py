import pytest
import torch

from simsiam.train import precision
from simsiam.train.config import PrecisionName
from simsiam.train.precision import choose_arithmetic, open_device

CPU = torch.device("cpu")


@pytest.fixture
def no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)


@pytest.mark.parametrize(
    ("cuda", "why"), [(None, "this PyTorch is built without CUDA"), ("13.0", "PyTorch sees no GPU")]
)
def test_missing_gpu_is_refused_with_the_reason(
    no_gpu: None, monkeypatch: pytest.MonkeyPatch, cuda: str | None, why: str
) -> None:
    monkeypatch.setattr(torch.version, "cuda", cuda)
    with pytest.raises(ValueError, match=f"device cuda was asked for, but {why}; use cpu"):
        open_device("cuda")


def test_auto_takes_the_cpu_where_there_is_no_gpu(no_gpu: None) -> None:
    assert open_device("auto") == open_device("cpu") == CPU


def test_auto_takes_the_gpu_where_there_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    assert open_device("auto") == open_device("cuda") == torch.device("cuda", 0)
    assert open_device("cpu") == CPU


def test_auto_is_fp32_on_a_cpu() -> None:
    arithmetic = choose_arithmetic(CPU, "auto")
    assert (arithmetic.device, arithmetic.name, arithmetic.dtype) == (CPU, "fp32", torch.float32)


@pytest.mark.parametrize(("supported", "name"), [(True, "bf16"), (False, "fp16")])
def test_auto_on_a_gpu_is_bf16_or_else_fp16(monkeypatch: pytest.MonkeyPatch, supported: bool, name: str) -> None:
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: supported or including_emulation)
    monkeypatch.setattr(precision, "GradScaler", lambda device, enabled: enabled)
    assert choose_arithmetic(torch.device("cuda", 0), "auto").name == name


def test_tf32_on_a_cpu_is_refused() -> None:
    with pytest.raises(ValueError, match=r"tf32 .* GPU.* fp32 or bf16"):
        choose_arithmetic(CPU, "tf32")


def test_switches_of_pytorch_follow_the_name() -> None:
    expected: list[tuple[PrecisionName, str, bool]] = [("tf32", "highest", True), ("fp32", "highest", False)]
    for name, matmul, cudnn in expected:
        choose_arithmetic(torch.device("cuda", 0), name)
        assert (torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32) == (matmul, cudnn)


@pytest.mark.parametrize(
    ("name", "dtype"), [("bf16", torch.bfloat16), ("fp16", torch.float16), ("fp32", torch.float32)]
)
def test_network_computes_in_the_arithmetic(name: PrecisionName, dtype: torch.dtype) -> None:
    arithmetic = choose_arithmetic(CPU, name)
    layer = torch.nn.Linear(4, 4)
    with arithmetic.autocast():
        assert layer(torch.ones(2, 4)).dtype == dtype
    assert arithmetic.dtype == dtype
    assert layer.weight.dtype == torch.float32
    assert arithmetic.scaler.is_enabled() == (name == "fp16")
