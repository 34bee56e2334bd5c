import json
import math
from collections import defaultdict
from pathlib import Path

import numpy as np
import pytest
import torch

from simsiam.pipeline.errors import RunError
from simsiam.train.evaluation import knn
from simsiam.train.evaluation.features import Features
from simsiam.train.evaluation.knn import evaluate_checkpoint, knn_accuracy
from simsiam.train.run.checkpoint import list_checkpoints


def noisy(count: int, seed: int, spread: float = 1.5, classes: int = 5) -> Features:
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(classes, (count,), generator=generator)
    centers = torch.randn(classes, 16, generator=torch.Generator().manual_seed(99))
    lengths = torch.rand(count, 1, generator=generator) * 10 + 0.1
    vectors = lengths * (centers[labels] + spread * torch.randn(count, 16, generator=generator))
    return Features(vectors, labels)


def by_hand(train: Features, test: Features, k: int, temperature: float) -> float:
    """One query at a time, in float64."""
    bank, correct = train.vectors.double().numpy(), 0
    for query, label in zip(test.vectors.double().numpy(), test.labels.tolist(), strict=True):
        cosine = bank @ query / np.linalg.norm(bank, axis=1) / np.linalg.norm(query)
        votes: dict[int, float] = defaultdict(float)
        for neighbour in np.argsort(-cosine)[:k]:
            votes[int(train.labels[neighbour])] += math.exp(cosine[neighbour] / temperature)
        correct += max(votes, key=lambda each: votes[each]) == label
    return correct / len(test.labels)


@pytest.mark.parametrize("k", [1, 7, 100, 300])
@pytest.mark.parametrize("temperature", [0.07, 1.0])
def test_accuracy_equals_the_definition(k: int, temperature: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(knn, "_CHUNK", 64)
    train, test = noisy(300, seed=0), noisy(150, seed=1)
    expected = by_hand(train, test, k, temperature)
    assert 0.2 < expected < 0.95
    assert knn_accuracy(train, test, k, temperature) == expected


def test_separable_classes_are_told_apart() -> None:
    assert knn_accuracy(noisy(100, 0, spread=0.01), noisy(50, 1, spread=0.01), k=10) == 1.0


def test_features_without_information_are_at_chance() -> None:
    generator = torch.Generator().manual_seed(0)
    train, test = (Features(torch.randn(2000, 8, generator=generator), torch.arange(2000) % 4) for _ in range(2))
    assert knn_accuracy(train, test, k=20) == pytest.approx(0.25, abs=0.05)


def test_k_is_cut_to_the_images_there_are() -> None:
    train, test = noisy(20, seed=0), noisy(30, seed=1)
    assert knn_accuracy(train, test, k=1000) == knn_accuracy(train, test, k=20) == by_hand(train, test, 20, 0.1)


def test_class_that_only_the_test_set_has_is_wrong() -> None:
    train = Features(torch.eye(2), torch.tensor([0, 1]))
    assert knn_accuracy(train, Features(torch.eye(2), torch.tensor([0, 7])), k=1) == 0.5


@pytest.mark.parametrize("which", ["train", "test"])
def test_unlabelled_images_are_refused(which: str) -> None:
    sets = {"train": noisy(20, 0), "test": noisy(20, 1)}
    sets[which] = Features(sets[which].vectors, torch.tensor([*[0] * 19, -1]))
    with pytest.raises(ValueError, match=f"image of {which} has a label: put each class into a folder"):
        knn_accuracy(sets["train"], sets["test"])


def test_checkpoint_gives_what_the_monitor_measured(tiny_run: Path, tiny_images: Path) -> None:
    accuracy = json.loads((tiny_run / "summary.json").read_text())["knn"]
    for named in (tiny_run, list_checkpoints(tiny_run / "checkpoints")[0]):
        measured = evaluate_checkpoint(named, tiny_images / "train", tiny_images / "test", device="cpu", workers=0)
        assert measured == (accuracy, 5, 0.1, 48, 16, [], [], [])  # and with what the run measures with


def test_neighbours_that_there_are_not_and_one_set_twice_are_warned_of(tiny_run: Path, tiny_images: Path) -> None:
    with pytest.warns(UserWarning) as told:
        evaluate_checkpoint(tiny_run, tiny_images / "train", tiny_images / "train", k=200, device="cpu", workers=0)
    assert sorted(str(each.message).partition(" ")[2] for each in told) == [
        f"is 200, but {tiny_images / 'train'} has 48 images: all of them vote.",
        "is both train and test: each test image is a training image, too.",
    ]


def test_size_of_the_crop_can_be_chosen(tiny_run: Path, tiny_images: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    real = knn.extract_features

    def extract(encoder, source, transform, *rest, **more):
        seen.append(transform)
        return real(encoder, source, transform, *rest, **more)

    monkeypatch.setattr(knn, "extract_features", extract)
    paths = tiny_run, tiny_images / "train", tiny_images / "test"
    evaluate_checkpoint(*paths, device="cpu", workers=0)
    evaluate_checkpoint(*paths, size=20, short_side=22, device="cpu", workers=0)
    assert [(each.size, each.short_side) for each in seen] == [(16, 18)] * 2 + [(20, 22)] * 2
    assert seen[0].mean == (0.485, 0.456, 0.406) and seen[0].std == (0.229, 0.224, 0.225)


@pytest.mark.parametrize(("k", "temperature"), [(0, 0.1), (-3, 0.1), (5, 0.0), (5, math.nan), (5, math.inf)])
def test_votes_that_mean_nothing_are_refused(k: int, temperature: float) -> None:
    features = Features(torch.eye(4), torch.arange(4))
    with pytest.raises(ValueError, match=rf"k is {k}, .*temperature {temperature}; both"):
        knn_accuracy(features, features, k, temperature)
    with pytest.raises(ValueError, match=f"k is {k}, "):  # before anything is looked for
        evaluate_checkpoint(Path("none.pt"), Path("none"), Path("none"), k=k, temperature=temperature)


@pytest.mark.parametrize("temperature", [1e-3, 1e-6, 1e-30])
def test_at_a_low_temperature_the_nearest_decides(temperature: float) -> None:
    bank = Features(torch.tensor([[1.0, 2.0], [1.0, 0.0], [1.0, 1.0]]), torch.tensor([2, 1, 0]))
    far = Features(torch.tensor([[-1.0, 0.2], [-2.0, -1.0]]), torch.tensor([2, 2]))  # cosines below 0
    assert knn_accuracy(bank, far, 3, temperature) == 1.0


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_features_that_are_not_finite_are_an_error(bad: float) -> None:
    good, broken = (Features(torch.tensor([[1.0, 0.0], [value, 1.0]]), torch.arange(2)) for value in (2.0, bad))
    for sets, name in (((good, broken), "test"), ((broken, good), "train")):
        with pytest.raises(RunError, match=f"1 of the 2 images of {name}"):
            knn_accuracy(*sets)
