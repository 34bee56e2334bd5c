"""A seed → a small labelled set of JPEGs on disk: ten kinds of textured shapes, in disguise.

The class is the shape together with its texture. Everything else is nuisance and drawn anew for each image: both
colours of the texture, the background and its gradient, place, scale and orientation, lighting, clutter of plain
shapes, and noise. So neighbours in raw pixels share a colour, not a class, and an encoder has to learn to look past it.
"""

import math
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

Plane = npt.NDArray[np.float64]

_SUPERSAMPLING = 2
_CLUTTER = (2, 6)
_RADIUS = (0.5, 0.85)
_SPREAD = 0.25
_PERIODS = (1.8, 2.8)


def _polygon(x: Plane, y: Plane, corners: int) -> Plane:
    angle = np.arctan2(y, x)
    sector = 2 * math.pi / corners
    return np.hypot(x, y) * np.cos((angle % sector) - sector / 2) / math.cos(sector / 2)


def _star(x: Plane, y: Plane) -> Plane:
    return np.hypot(x, y) * (1.25 + 0.35 * np.cos(5 * np.arctan2(y, x)))


# A shape is where its function of (x, y) is below 1; coordinates are in units of its radius.
_SHAPES: dict[str, Callable[[Plane, Plane], Plane]] = {
    "disc": np.hypot,
    "square": lambda x, y: np.maximum(abs(x), abs(y)) * 1.15,
    "triangle": lambda x, y: _polygon(x, y, 3) * 0.85,
    "star": _star,
    "ring": lambda x, y: 1 + 3.5 * (abs(np.hypot(x, y) - 0.7) - 0.3),
    "cross": lambda x, y: np.minimum(np.maximum(abs(x) * 2.8, abs(y)), np.maximum(abs(x), abs(y) * 2.8)),
    "hexagon": lambda x, y: _polygon(x, y, 6),
    "bar": lambda x, y: np.maximum(abs(x), abs(y) * 2.2),
    "diamond": lambda x, y: abs(x) * 1.5 + abs(y),
    "ellipse": lambda x, y: np.hypot(x, y * 1.7),
}

# A texture is a function of (x, y) in periods, between −1 and 1.
_TEXTURES: dict[str, Callable[[Plane, Plane], Plane]] = {
    "stripes": lambda x, y: np.sin(2 * math.pi * x),
    "checks": lambda x, y: np.sin(2 * math.pi * x) * np.sin(2 * math.pi * y),
    "dots": lambda x, y: 1 - 4 * np.hypot(x % 1 - 0.5, y % 1 - 0.5),
    "grid": lambda x, y: 1 - 2.5 * np.minimum(abs(x % 1 - 0.5), abs(y % 1 - 0.5)) * 2,
    "waves": lambda x, y: np.sin(2 * math.pi * (y + 0.35 * np.sin(2 * math.pi * x * 0.7))),
    "bricks": lambda x, y: (
        1 - 8 * np.minimum(abs((y * 1.2) % 1 - 0.5), abs((x * 0.6 + 0.5 * (np.floor(y * 1.2 + 0.5) % 2)) % 1 - 0.5))
    ),
    "circles": lambda x, y: np.sin(2 * math.pi * np.hypot(x, y)),
    "spokes": lambda x, y: np.sin(8 * np.arctan2(y, x)),
    "zigzag": lambda x, y: np.sin(2 * math.pi * (y + abs(x % 1 - 0.5))),
    "plain": lambda x, y: np.ones_like(x),
}

CLASSES: tuple[str, ...] = tuple(f"{texture}-{shape}" for texture, shape in zip(_TEXTURES, _SHAPES, strict=True))
"""The ten classes, one texture and one shape each."""


def draw_demo_image(label: int, rng: np.random.Generator, size: int = 64) -> npt.NDArray[np.uint8]:
    """Return one image of class `label`, uint8 RGB of shape (size, size, 3)."""
    side = size * _SUPERSAMPLING
    y, x = np.mgrid[0:side, 0:side] / side * 2 - 1
    canvas = _gradient(x, y, *_colors(rng, 2), rng)
    for _ in range(rng.integers(*_CLUTTER)):  # clutter: plain shapes of any kind
        shape = list(_SHAPES.values())[rng.integers(len(_SHAPES))]
        inside, _, _ = _place(x, y, shape, rng, radius=rng.uniform(0.1, 0.3), spread=0.95)
        canvas[inside] = _colors(rng, 1)[0]
    shape, texture = list(_SHAPES.values())[label], list(_TEXTURES.values())[label]
    inside, u, v = _place(x, y, shape, rng, radius=rng.uniform(*_RADIUS), spread=_SPREAD)
    periods = rng.uniform(*_PERIODS)
    light, dark = _contrasting_colors(rng)
    blend = 0.5 + 0.5 * np.clip(2.5 * texture(u * periods, v * periods), -1, 1)
    textured = light * blend[..., None] + dark * (1 - blend[..., None])
    canvas[inside] = textured[inside]
    canvas = canvas * _gradient(x, y, np.full(3, rng.uniform(0.55, 1.0)), np.full(3, rng.uniform(0.8, 1.25)), rng)
    image = canvas.reshape(size, _SUPERSAMPLING, size, _SUPERSAMPLING, 3).mean(axis=(1, 3))
    image += rng.normal(0, rng.uniform(0, 0.04), image.shape)
    return (image.clip(0, 1) * 255).astype(np.uint8)


def write_demo_images(
    folder: Path,
    count: int,
    seed: int,
    *,
    workers: int = 1,
    progress: Callable[[int, int], None] | None = None,
) -> None:
    """Write `count` JPEGs of quality 90 as folder/CLASS/NNNNN.jpg; every class gets the same number, give or take one.

    Image i depends on the seed and i alone, so any number of workers writes the same files.
    """
    for name in CLASSES:
        (folder / name).mkdir(parents=True, exist_ok=True)
    with ProcessPoolExecutor(workers) as pool:
        write = partial(_write_demo_image, folder, seed)
        for done, _ in enumerate(pool.map(write, range(count), chunksize=16), start=1):
            if progress:
                progress(done, count)


def _write_demo_image(folder: Path, seed: int, index: int) -> None:
    label = index % len(CLASSES)
    image = draw_demo_image(label, np.random.default_rng([seed, index]))
    Image.fromarray(image).save(folder / CLASSES[label] / f"{index:05d}.jpg", quality=90)


def _colors(rng: np.random.Generator, count: int) -> Any:
    return rng.uniform(0.05, 0.95, (count, 3))


def _contrasting_colors(rng: np.random.Generator) -> tuple[Any, Any]:
    """Two colours far enough apart for the texture to be seen."""
    while True:
        first, second = _colors(rng, 2)
        if abs(first - second).mean() > 0.35:
            return first, second


def _gradient(x: Plane, y: Plane, first: Any, second: Any, rng: np.random.Generator) -> npt.NDArray[np.float64]:
    angle = rng.uniform(0, 2 * math.pi)
    share = 0.5 + 0.35 * (x * math.cos(angle) + y * math.sin(angle))
    return first * share[..., None] + second * (1 - share[..., None])


def _place(
    x: Plane, y: Plane, shape: Any, rng: np.random.Generator, radius: float, spread: float
) -> tuple[Any, Plane, Plane]:
    """Move, turn and scale a shape: where it is, and its own coordinates in units of its radius."""
    angle = rng.uniform(0, 2 * math.pi)
    dx, dy = x - rng.uniform(-spread, spread), y - rng.uniform(-spread, spread)
    u = (dx * math.cos(angle) + dy * math.sin(angle)) / radius
    v = (-dx * math.sin(angle) + dy * math.cos(angle)) / radius
    return shape(u, v) < 1, u, v
