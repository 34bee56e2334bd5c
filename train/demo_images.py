"""A seed → a small labelled set of JPEGs on disk: ten kinds of painted surfaces, in disguise.

The class is a texture and the two hues it is painted in. Everything else is nuisance and drawn anew for each image: the
exact colours, place, scale and direction of the texture, the light and its gradient, contrast, clutter of plain shapes,
noise. So neighbours in raw pixels share their light and layout as often as their class, and an encoder has to learn to
look past them.
"""

import colorsys
import math
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

Plane = npt.NDArray[np.float64]
Function = Callable[[Plane, Plane], Plane]

# A texture is a function of (x, y) in periods, between −1 and 1.
_TEXTURES: dict[str, Function] = {
    "stripes": lambda x, y: np.sin(2 * math.pi * x),
    "checks": lambda x, y: np.sin(2 * math.pi * x) * np.sin(2 * math.pi * y),
    "dots": lambda x, y: 1 - 4 * np.hypot(x % 1 - 0.5, y % 1 - 0.5),
    "grid": lambda x, y: 1 - 5 * np.minimum(abs(x % 1 - 0.5), abs(y % 1 - 0.5)),
    "waves": lambda x, y: np.sin(2 * math.pi * (y + 0.35 * np.sin(4.4 * x))),
    "bricks": lambda x, y: 1 - 8 * np.minimum(abs(y % 1 - 0.5), abs((0.5 * x + 0.5 * (np.round(y) % 2)) % 1 - 0.5)),
    "circles": lambda x, y: np.sin(2 * math.pi * np.hypot(x, y)),
    "spokes": lambda x, y: np.sin(8 * np.arctan2(y, x)),
    "zigzag": lambda x, y: np.sin(2 * math.pi * (y + abs(x % 1 - 0.5))),
    "plain": lambda x, y: np.ones_like(x),
}

CLASSES: tuple[str, ...] = tuple(_TEXTURES)
"""The ten classes, named after their textures."""

# A shape of the clutter is where its function of (x, y), in units of its radius, is below 1.
_SHAPES: tuple[Function, ...] = (
    np.hypot,
    lambda x, y: np.maximum(abs(x), abs(y)),
    lambda x, y: np.maximum(abs(x) * 0.87 + y * 0.5, -y) * 2,
    lambda x, y: np.hypot(x, y) * (1.25 + 0.35 * np.cos(5 * np.arctan2(y, x))),
    lambda x, y: np.minimum(np.maximum(abs(x) * 2.8, abs(y)), np.maximum(abs(x), abs(y) * 2.8)),
)

_SUPERSAMPLING = 2
_HUE_NOISE = 0.1  # turns; as far as the reference jitter reaches


def draw_demo_image(label: int, rng: np.random.Generator, size: int = 64) -> npt.NDArray[np.uint8]:
    """Return one image of class `label`, uint8 RGB of shape (size, size, 3)."""
    side = size * _SUPERSAMPLING
    y, x = np.mgrid[0:side, 0:side] / side * 2 - 1
    u, v = _place(x, y, rng, spread=0.3)
    periods = rng.uniform(1.8, 3.0)
    blend = 0.5 + 0.5 * np.clip(2.5 * _TEXTURES[CLASSES[label]](u * periods, v * periods), -1, 1)[..., None]
    light, dark = _palette(label, rng)
    canvas = light * blend + dark * (1 - blend)
    for _ in range(rng.integers(2, 6)):
        shape = _SHAPES[rng.integers(len(_SHAPES))]
        u, v = _place(x, y, rng, spread=0.95)
        radius = rng.uniform(0.08, 0.2)
        canvas[shape(u / radius, v / radius) < 1] = rng.uniform(0.05, 0.95, 3)
    canvas = _illuminate(canvas, x, y, rng)
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


def _palette(label: int, rng: np.random.Generator) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Return a class's light and dark colour, RGB 0 … 1: hues near its own, any saturation and value."""
    hue = label / len(CLASSES)
    light = (hue + rng.uniform(-_HUE_NOISE, _HUE_NOISE), rng.uniform(0.4, 0.9), rng.uniform(0.6, 1.0))
    offset = (0.5, 0.33, 0.2)[label % 3]
    dark = (hue + offset + rng.uniform(-_HUE_NOISE, _HUE_NOISE), rng.uniform(0.5, 1.0), rng.uniform(0.15, 0.5))
    return np.array(colorsys.hsv_to_rgb(*light)), np.array(colorsys.hsv_to_rgb(*dark))


def _place(x: Plane, y: Plane, rng: np.random.Generator, spread: float) -> tuple[Plane, Plane]:
    """Move by up to `spread` and turn by any angle."""
    angle = rng.uniform(0, 2 * math.pi)
    dx, dy = x - rng.uniform(-spread, spread), y - rng.uniform(-spread, spread)
    return dx * math.cos(angle) + dy * math.sin(angle), -dx * math.sin(angle) + dy * math.cos(angle)


def _illuminate(canvas: npt.NDArray[np.float64], x: Plane, y: Plane, rng: np.random.Generator) -> Plane:
    """Light from one side, then lose contrast, as through haze."""
    angle = rng.uniform(0, 2 * math.pi)
    share = 0.5 + 0.35 * (x * math.cos(angle) + y * math.sin(angle))[..., None]
    lit = canvas * (rng.uniform(0.35, 1.1) * share + rng.uniform(0.5, 1.35) * (1 - share))
    contrast = rng.uniform(0.6, 1.0)
    return lit * contrast + (1 - contrast) * rng.uniform(0, 1)
