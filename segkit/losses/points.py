"""Points of an image on which a loss is computed, instead of on all of its pixels.

Kirillov et al., "PointRend", 2020, sections 3.1 and 4.1; losses of masks on such points: Cheng et
al., "Masked-attention Mask Transformer", 2022, section 3.3.
"""

from __future__ import annotations

import hashlib
from typing import Annotated

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from segkit.core.errors import SegkitError
from segkit.core.labels import Mode

OVERSAMPLE = 3
"""Candidates for each point that is chosen by its uncertainty."""
IMPORTANCE = 0.75
"""Share of the points that are chosen by their uncertainty; the others are anywhere."""

Points = Annotated[int, Field(ge=1)]


def select_points(
    logits: Tensor, truth: Tensor, valid: Tensor, weight: Tensor | None, mode: Mode, points: int
) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
    """Reduce the inputs of :meth:`Loss.compute` to points that are mostly uncertain.

    Returns:
        The same four with H = 1 and W = ``points``, see :func:`take_points`.
    """
    if logits.is_cuda and torch.are_deterministic_algorithms_enabled():
        raise SegkitError(
            "losses on points interpolate, for which torch has no deterministic gradient on a GPU:"
            " leave points or trainer.deterministic=true out."
        )
    counted = _leave_out_ignored(logits, valid)  # once, as it takes a pass over all pixels
    with torch.no_grad():
        chosen = _choose_points(counted, valid, mode, points)
    return _take_points(counted, truth, valid, weight, chosen)


def choose_points(
    logits: Tensor,
    valid: Tensor,
    mode: Mode,
    points: int,
    oversample: float = OVERSAMPLE,
    importance: float = IMPORTANCE,
) -> Tensor:
    """Choose points of each image: most where the prediction is uncertain, the others anywhere.

    ``oversample`` times as many candidates are drawn evenly. Of those, the most uncertain ones are
    taken: whose two best classes are closest (multiclass), or one of whose logits is closest to 0.
    Candidates in ignored pixels come last.

    Args:
        logits: (B, C, H, W).
        valid: Which entries count, bool, (B, H, W) or (B, C, H, W), C also 1.
        mode: What the channels of the logits mean.
        points: Number of points per image.
        oversample: Candidates per point, at least 1.
        importance: Share of the points that are chosen by their uncertainty.

    Returns:
        (B, points, 2): x and y from 0 to 1, the left upper to the right lower corner of the image.
        See :func:`draw_points` for the random numbers.
    """
    counted = _leave_out_ignored(logits, valid)
    return _choose_points(counted, valid, mode, points, oversample, importance)


def take_points(
    logits: Tensor, truth: Tensor, valid: Tensor, weight: Tensor | None, points: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
    """Take the inputs of :meth:`Loss.compute` at points.

    Logits are interpolated between the centres of the pixels, of which only those that count take
    part, so that ignored pixels get no gradient. Truth and weights are those of the pixel in which
    the point is.

    Args:
        logits, truth, valid, weight: Inputs of :meth:`Loss.compute`.
        points: (B, K, 2), see :func:`choose_points`.

    Returns:
        The same four with H = 1 and W = K.
    """
    return _take_points(_leave_out_ignored(logits, valid), truth, valid, weight, points)


def _leave_out_ignored(logits: Tensor, valid: Tensor) -> Tensor:
    """The logits (B, C, H, W), 0 where nothing counts."""
    return logits.masked_fill(~_add_channel(valid), 0)


def _add_channel(valid: Tensor) -> Tensor:
    """What counts as (B, 1 or C, H, W)."""
    return valid if valid.ndim == 4 else valid.unsqueeze(1)


def _choose_points(
    counted: Tensor,
    valid: Tensor,
    mode: Mode,
    points: int,
    oversample: float = OVERSAMPLE,
    importance: float = IMPORTANCE,
) -> Tensor:
    certain, others = round(importance * points), round(oversample * points)
    drawn = draw_points(counted, points - certain + others)
    evenly, candidates = drawn.split([points - certain, others], 1)
    found, _, counts, _ = _take_points(counted, valid, valid, None, candidates)
    if mode == "multiclass":  # (B, C, 1, K)
        best = found.topk(2, 1).values
        margin = torch.where(counts, best[:, 0] - best[:, 1], torch.inf)  # (B, 1, K)
    else:
        margin = torch.where(counts, found.abs(), torch.inf).amin(1)  # (B, 1, K)
    order = margin.squeeze(1).topk(certain, largest=False).indices  # (B, certain)
    uncertain = candidates.gather(1, order.unsqueeze(-1).expand(-1, -1, 2))
    return torch.cat([uncertain, evenly], 1)


def _take_points(
    counted: Tensor, truth: Tensor, valid: Tensor, weight: Tensor | None, points: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
    grid = 2 * points.unsqueeze(1).to(counted) - 1  # (B, 1, K, 2), -1 ... 1 between the corners
    values, shares = (
        F.grid_sample(maps, grid, align_corners=False)  # (B, C, 1, K), and (B, 1 or C, 1, K)
        for maps in (counted, _add_channel(valid).to(counted.dtype))
    )
    # at the borders of the image and of what is ignored the weights of the interpolation sum up to
    # less than 1, but to a quarter at least for a point in a pixel that counts
    shares = torch.where(shares > 0, shares, 1)

    def pick(maps: Tensor) -> Tensor:
        return pick_pixels(maps, points).unsqueeze(-2)  # (B, 1, K) or (B, C, 1, K)

    picked = None if weight is None else pick(weight)
    return values / shares, pick(truth), pick(valid), picked


def pick_pixels(maps: Tensor, points: Tensor) -> Tensor:
    """The values of the pixels in which points (B, K, 2) are, see :func:`choose_points`.

    From (B, H, W) to (B, K), from (B, C, H, W) to (B, C, K).
    """
    H, W = maps.shape[-2:]
    x, y = points.unbind(-1)  # (B, K)
    places = (y * H).long().clamp(0, H - 1) * W + (x * W).long().clamp(0, W - 1)
    flat = maps.flatten(-2)  # (B, HW) or (B, C, HW)
    index = places if flat.ndim == 2 else places.unsqueeze(1).expand(*flat.shape[:2], -1)
    return flat.gather(-1, index)


# A custom operator, so that a compiled graph draws as a plain one does, and anew in each step.
@torch.library.custom_op(
    "segkit::draw_points",
    mutates_args=(),
    schema="(Tensor logits, int points) -> Tensor",
    tags=(torch.Tag.cudagraph_unsafe,),
)
def draw_points(logits: Tensor, points: int) -> Tensor:
    """Draw points evenly, (B, points, 2) from 0 to 1 as float32, on the device of the logits.

    The global random numbers of torch are those of the model: nothing is drawn from them, but
    their state on the CPU is the seed of these points. So the points differ from batch to batch of
    a training, which seeds each, and a resumed run has those of the run that was not stopped. In a
    loop of your own they differ as soon as anything was drawn, as by a new pass of a DataLoader.
    """
    state = hashlib.blake2b(torch.get_rng_state().numpy().tobytes(), digest_size=8).digest()
    generator = torch.Generator(logits.device)
    generator.manual_seed(int.from_bytes(state, "little") >> 1)
    shape = (len(logits), points, 2)
    return torch.rand(shape, generator=generator, device=logits.device)


@draw_points.register_fake
def _(logits: Tensor, points: int) -> Tensor:
    return logits.new_empty((len(logits), points, 2), dtype=torch.float32)
