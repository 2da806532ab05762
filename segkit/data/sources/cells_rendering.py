"""What the drawn cells look like: light, ground, debris, two kinds of contrast, and the camera."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
from numpy.random import Generator

from segkit.data.sources.cells_scene import Bytes, Field, Scene, unit


def _texture(rng: Generator, size: tuple[int, int], grain: float) -> Field:
    """Smooth noise of mean 0 and deviation about 1 whose spots are some `grain` pixels wide."""
    step = max(1.0, grain / 1.5)  # coarse noise is drawn small and enlarged
    shape = [int(np.ceil(side / step)) + 4 for side in size]
    blur = max(0.6, grain / step)
    noise: npt.NDArray[Any] = rng.standard_normal(shape, np.float32)
    noise = 2 * np.sqrt(np.pi) * blur * cv2.GaussianBlur(noise, (0, 0), blur)
    if step > 1:
        target = (int(shape[1] * step), int(shape[0] * step))
        noise = cv2.resize(noise, target, interpolation=cv2.INTER_CUBIC)
    return np.asarray(noise[: size[0], : size[1]], np.float32)


def _light(rng: Generator, size: tuple[int, int]) -> Field:
    """A slope and a vignette whose middle is off the centre; (H, W), about 1."""
    y = np.linspace(-1, 1, size[0], dtype=np.float32)[:, None]
    x = np.linspace(-1, 1, size[1], dtype=np.float32)
    slope, middle = rng.uniform(0.12, 0.32) * unit(rng), 0.4 * rng.random() * unit(rng)
    dark = rng.uniform(0.08, 0.22)
    light = 1 + slope.real * x + slope.imag * y
    light = light - dark * ((x - middle.real) ** 2 + (y - middle.imag) ** 2)
    return np.asarray(light, np.float32)


def _debris(rng: Generator, size: tuple[int, int]) -> Field:
    """What is no cell: specks, a fibre now and then, and blurred things out of focus; (H, W)."""
    height, width = size
    area = height * width / 128**2

    def somewhere() -> tuple[int, int]:
        return int(rng.integers(width)), int(rng.integers(height))

    sharp = np.zeros(size, np.float32)
    for _ in range(rng.poisson(9 * area)):
        strength = rng.choice((-1, 1)) * rng.uniform(0.6, 1.5)
        cv2.circle(sharp, somewhere(), int(rng.integers(1, 3)), strength, -1)
    for _ in range(rng.poisson(0.7 * area)):
        bends = np.cumsum(rng.normal(0, 11, (5, 2)), axis=0) + somewhere()
        cv2.polylines(
            sharp, [bends.astype(np.int32)], False, rng.choice((-1, 1)) * rng.uniform(0.6, 1.3), 1
        )
    blurred = np.zeros(size, np.float32)
    for _ in range(rng.poisson(3.5 * area)):
        strength = rng.choice((-1, 1)) * rng.uniform(0.5, 1.0)
        cv2.circle(blurred, somewhere(), int(rng.integers(5, 13)), strength, -1)
    both = cv2.GaussianBlur(sharp, (0, 0), 0.7) + cv2.GaussianBlur(blurred, (0, 0), 4.5)
    return np.asarray(both, np.float32)


def _band(depth: Field, middle: float, width: float) -> Field:
    """1 along a line `middle` pixels inside the outlines, fading over `width` pixels."""
    return np.asarray(np.exp(-(((depth - middle) / width) ** 2)), np.float32)


def _expose(rng: Generator, picture: npt.NDArray[Any]) -> Bytes:
    """Defocus, shot and read noise, and 8 bits: (H, W, C) of about 0..1 to uint8."""
    sharp = cv2.GaussianBlur(picture, (0, 0), rng.uniform(0.45, 0.85)).reshape(picture.shape)
    noise = rng.standard_normal(picture.shape, np.float32)
    photons, read = rng.uniform(500, 2500), rng.uniform(0.005, 0.015)
    seen = sharp + noise * np.sqrt(np.maximum(sharp, 0) / photons + read**2)
    return np.asarray(np.clip(np.rint(seen * 255), 0, 255), np.uint8)


def grey(rng: Generator, scene: Scene, kinds: Bytes) -> Bytes:
    """A phase-contrast-like picture, (H, W, 1): dark outlines with a bright fringe around them."""
    size, depth = scene.owner.shape, scene.depth
    cover = np.clip(depth + 0.5, 0, 1)
    level = np.where(kinds == 1, rng.normal(0.07, 0.05, len(kinds)), 0)
    level += np.where(kinds == 2, rng.normal(-0.01, 0.05, len(kinds)), 0)
    body = level.astype(np.float32)[scene.owner]
    body += np.where(scene.kind == 1, 0.085, 0.02) * _texture(rng, size, 0.9)
    nucleus = np.clip(scene.nucleus * 4, 0, 1) * (scene.kind == 2)
    body += nucleus * (0.12 * scene.nucleus - 0.17)
    edge = 0.2 * _band(depth, 0.8, 1.1) - 0.1 * _band(depth, -2.0, 1.5)
    ground = 0.03 * _texture(rng, size, 9) + 0.02 * _texture(rng, size, 1.5)
    contrast = rng.uniform(0.75, 1.2)
    signal = cover * body - edge + 0.22 * (1 - cover) * _debris(rng, size)
    picture = (rng.uniform(0.42, 0.58) + ground + contrast * signal) * _light(rng, size)
    return _expose(rng, picture[..., None].astype(np.float32))


def stained(rng: Generator, scene: Scene, kinds: Bytes) -> Bytes:
    """A stained section, (H, W, 3) RGB: two dyes that absorb light in their own hues."""
    size, depth = scene.owner.shape, scene.depth
    cover = np.clip(depth + 0.5, 0, 1)
    strength = rng.uniform(0.7, 1.3, len(kinds)).astype(np.float32)[scene.owner]
    granules = np.maximum(0.35 + 0.35 * _texture(rng, size, 0.9), 0)
    nucleus = np.clip(scene.nucleus * 4, 0, 1) * (scene.kind == 2)
    debris = (1 - cover) * _debris(rng, size)
    edge = _band(depth, 0.8, 1.1)
    ground = 0.30 + 0.09 * _texture(rng, size, 9) + 0.06 * _texture(rng, size, 1.5)
    pink = np.where(scene.kind == 2, 0.28, 0.10) * strength + 0.3 * edge
    pink = cover * pink + (1 - cover * 0.6) * ground + 0.25 * debris
    violet = np.where(scene.kind == 1, granules, 0.8 * nucleus) * strength * 0.55
    violet = cover * (violet + 0.25 * edge) + 0.15 * np.abs(debris)
    hues = np.array([[0.10, 0.75, 0.35], [0.80, 0.85, 0.30]]) + rng.normal(0, 0.04, (2, 3))
    density = np.stack([pink, violet], axis=-1) * rng.uniform(0.8, 1.25)
    picture = np.exp(-np.maximum(density, 0) @ np.maximum(hues, 0)) * _light(rng, size)[..., None]
    return _expose(rng, (rng.uniform(0.85, 0.98) * picture).astype(np.float32))
