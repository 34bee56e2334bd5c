"""Demo images: a small labelled set of JPEGs, ten kinds of textured shapes drawn from a seed.

The class is a shape and its texture. Everything else is drawn at random for each image: both colours of the texture,
the background, position, scale and rotation, the light and its gradient, clutter of plain shapes, noise. Neighbours in
raw pixels share their colours, not their class, so an encoder must learn to ignore colours.
"""

import math
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from simsiam.pipeline.progress import Progress

Plane = npt.NDArray[np.float64]
Function = Callable[[Plane, Plane], Plane]


def _polygon(x: Plane, y: Plane, corners: int) -> Plane:
    sector = 2 * math.pi / corners
    return np.hypot(x, y) * np.cos(np.arctan2(y, x) % sector - sector / 2) / math.cos(sector / 2)


# A shape is the set of (x, y), in units of its radius, where its function is below 1.
_SHAPES: dict[str, Function] = {
    "disc": np.hypot,
    "square": lambda x, y: np.maximum(abs(x), abs(y)) * 1.15,
    "triangle": lambda x, y: _polygon(x, y, 3) * 0.85,
    "star": lambda x, y: np.hypot(x, y) * (1.25 + 0.35 * np.cos(5 * np.arctan2(y, x))),
    "ring": lambda x, y: 1 + 3.5 * (abs(np.hypot(x, y) - 0.7) - 0.3),
    "cross": lambda x, y: np.minimum(np.maximum(abs(x) * 2.8, abs(y)), np.maximum(abs(x), abs(y) * 2.8)),
    "hexagon": lambda x, y: _polygon(x, y, 6),
    "bar": lambda x, y: np.maximum(abs(x), abs(y) * 2.2),
    "diamond": lambda x, y: abs(x) * 1.5 + abs(y),
    "ellipse": lambda x, y: np.hypot(x, y * 1.7),
}

# A texture is a function of (x, y) in periods, between −1 and 1.
_TEXTURES: dict[str, Function] = {
    "striped": lambda x, y: np.sin(2 * math.pi * x),
    "checked": lambda x, y: np.sin(2 * math.pi * x) * np.sin(2 * math.pi * y),
    "dotted": lambda x, y: 1 - 4 * np.hypot(x % 1 - 0.5, y % 1 - 0.5),
    "latticed": lambda x, y: 1 - 5 * np.minimum(abs(x % 1 - 0.5), abs(y % 1 - 0.5)),
    "wavy": lambda x, y: np.sin(2 * math.pi * (y + 0.35 * np.sin(4.4 * x))),
    "bricked": lambda x, y: 1 - 8 * np.minimum(abs(y % 1 - 0.5), abs((0.5 * x + 0.5 * (np.round(y) % 2)) % 1 - 0.5)),
    "ringed": lambda x, y: np.sin(2 * math.pi * np.hypot(x, y)),
    "spoked": lambda x, y: np.sin(8 * np.arctan2(y, x)),
    "zigzagged": lambda x, y: np.sin(2 * math.pi * (y + abs(x % 1 - 0.5))),
    "plain": lambda x, y: np.ones_like(x),
}

CLASSES: tuple[str, ...] = tuple(f"{texture}-{shape}" for texture, shape in zip(_TEXTURES, _SHAPES, strict=True))
"""The ten classes: one texture on one shape each."""

_SUPERSAMPLING = 2
_LEAST_CONTRAST = 0.35  # mean difference of the two colours; below it a texture is hardly visible


def draw_demo_image(label: int, rng: np.random.Generator, size: int = 64) -> npt.NDArray[np.uint8]:
    """Return one image of class `label`, uint8 RGB of shape (size, size, 3)."""
    side = size * _SUPERSAMPLING
    y, x = np.mgrid[0:side, 0:side] / side * 2 - 1
    canvas = _gradient(x, y, _color(rng), _color(rng), rng)
    # Mostly larger than the picture, so that most crops show some of it.
    u, v = _transform(x, y, rng, radius=rng.uniform(1.3, 1.9), spread=0.3)
    periods = rng.uniform(3.0, 4.5)
    blend = 0.5 + 0.5 * np.clip(2.5 * list(_TEXTURES.values())[label](u * periods, v * periods), -1, 1)[..., None]
    light, dark = _contrasting_colors(rng)
    inside = list(_SHAPES.values())[label](u, v) < 1
    canvas[inside] = (light * blend + dark * (1 - blend))[inside]
    for _ in range(rng.integers(2, 6)):
        shape = list(_SHAPES.values())[rng.integers(len(_SHAPES))]
        u, v = _transform(x, y, rng, radius=rng.uniform(0.08, 0.2), spread=0.95)
        canvas[shape(u, v) < 1] = _color(rng)
    canvas *= _gradient(x, y, rng.uniform(0.55, 1.0), rng.uniform(0.8, 1.25), rng)
    image = canvas.reshape(size, _SUPERSAMPLING, size, _SUPERSAMPLING, 3).mean(axis=(1, 3))
    image += rng.normal(0, rng.uniform(0, 0.04), image.shape)
    return (image.clip(0, 1) * 255).astype(np.uint8)


def write_demo_images(
    folder: Path,
    count: int,
    seed: int,
    *,
    workers: int = 1,
    progress: Progress | None = None,
) -> None:
    """Write `count` JPEGs of quality 90 as folder/CLASS/NNNNN.jpg; class sizes differ by at most 1.

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


def _contrasting_colors(rng: np.random.Generator) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Return two random colours, RGB 0 … 1, with enough contrast to show a texture."""
    while True:
        first, second = _color(rng), _color(rng)
        if abs(first - second).mean() > _LEAST_CONTRAST:
            return first, second


def _color(rng: np.random.Generator) -> npt.NDArray[np.float64]:
    return rng.uniform(0.05, 0.95, 3)


def _gradient(
    x: Plane, y: Plane, first: npt.ArrayLike, second: npt.ArrayLike, rng: np.random.Generator
) -> npt.NDArray[np.float64]:
    """Fade from one colour or brightness to another, in any direction."""
    angle = rng.uniform(0, 2 * math.pi)
    share = 0.5 + 0.35 * (x * math.cos(angle) + y * math.sin(angle))[..., None]
    return np.asarray(first) * share + np.asarray(second) * (1 - share)


def _transform(x: Plane, y: Plane, rng: np.random.Generator, radius: float, spread: float) -> tuple[Plane, Plane]:
    """Shift by up to `spread`, rotate by any angle, and scale to units of `radius`."""
    angle = rng.uniform(0, 2 * math.pi)
    dx, dy = x - rng.uniform(-spread, spread), y - rng.uniform(-spread, spread)
    u, v = dx * math.cos(angle) + dy * math.sin(angle), -dx * math.sin(angle) + dy * math.cos(angle)
    return u / radius, v / radius
