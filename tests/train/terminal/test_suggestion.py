import pytest

from simsiam.train.terminal.suggestion import did_you_mean, nearest

OPTIONS = ["--epochs", "--batch-size", "--data.path", "--optimizer.base-lr", "--optimizer.warmup-epochs", "--knn.k"]


@pytest.mark.parametrize(
    ("word", "meant"),
    [
        ("--epoch", "--epochs"),
        ("--batchsize", "--batch-size"),
        ("--data.paht", "--data.path"),
        ("--path", "--data.path"),
        ("--base_lr", "--optimizer.base-lr"),
        ("--lr", "--optimizer.base-lr"),
        ("--warmup", "--optimizer.warmup-epochs"),
        ("--warm", "--optimizer.warmup-epochs"),
        ("--xyzzy", None),
    ],
)
def test_nearest_option(word: str, meant: str | None) -> None:
    assert nearest(word, OPTIONS) == meant


def test_of_two_equally_near_the_first_is_taken() -> None:
    assert nearest("path", ["augmentation.path", "data.path"]) == "data.path"  # as a whole
    assert nearest("path", ["augmentation.path", "optimization.path"]) == "augmentation.path"


def test_end_of_a_sentence() -> None:
    assert did_you_mean("costum", ["demo", "custom"]) == "; did you mean custom?"
    assert did_you_mean("xyzzy", ["demo", "custom"]) == "."


def test_name_that_is_missing_on_purpose_is_explained() -> None:
    declined = {"grad_accum": "It would be another training."}
    for word in ("--grad-accum", "grad_accum_steps"):
        assert did_you_mean(word, ["grad-acc"], declined) == ". It would be another training."
    assert did_you_mean("--accum", ["demo"], declined) == "."
