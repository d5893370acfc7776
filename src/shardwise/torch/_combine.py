"""Rows combined by torch's own operations: on any device, and with every gradient.

So are gradients of weights, norms that gradients pass through, and which row has the largest value.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from shardwise._bag_forms import as_splits
from shardwise._errors import BagError
from shardwise._norms import as_limit


def widened(rows: Any) -> Any:
    """Return floats in the dtype that they are added up in: float32, or float64."""
    return rows.float() if rows.element_size() == 2 else rows


def clipped(rows: Any, max_norm: float, norm_type: float = 2.0) -> Any:
    """Return rows of a larger norm scaled down to this one; the others keep their bits.

    Args:
        rows: of shape (..., dim).
        max_norm: the largest norm; as for tables, a negative one is 0.
        norm_type: the p of the norm.
    """
    limit, wide = as_limit(max_norm), widened(rows)
    # Squares of float32 neither overflow nor vanish in float64, which some devices have not.
    dtype = torch.float64 if rows.device.type in ("cpu", "cuda", "meta") else wide.dtype
    norms = torch.linalg.vector_norm(wide, norm_type, dim=-1, keepdim=True, dtype=dtype)
    # A row of just this norm keeps its bits, and has the gradient of one above, as TensorFlow's.
    over = (norms >= limit) & (norms > 0)
    # The factor is made where it is used alone: a norm of 0 has no derivative.
    scale = (limit / torch.where(over, norms, 1.0)).to(wide.dtype)
    return torch.where(over, wide * scale, wide).to(rows.dtype)


@dataclass(frozen=True)
class Runs:
    """Bags of ids as tensors, from which the ids that are no part of their bag are gone.

    Attributes:
        ids: integers of shape (ids,).
        of: in which bag each is.
        count: how many bags there are.
        weights: of shape (ids,), or None.
    """

    ids: Any
    of: Any
    count: int
    weights: Any

    @classmethod
    def between(cls, ids: Any, splits: Any, weights: Any) -> Runs:
        """Return the runs of ids between int64[bags + 1] splits, which do not fall."""
        count, end = splits.shape[0] - 1, ids.shape[0]
        if splits.device.type == "meta":
            return cls(ids, torch.zeros_like(ids, dtype=torch.int64), count, weights)
        last = int(splits[-1])
        if last < end:
            ids, weights = ids[:last], None if weights is None else weights[:last]
        of = torch.repeat_interleave(
            torch.arange(count, device=splits.device), splits.diff(), output_size=last
        )
        return cls(ids, of, count, weights)

    def only(self, kept: Any) -> Runs:
        """Return them without the ids that are not kept."""
        if kept.device.type == "meta":
            return self
        weights = None if self.weights is None else self.weights[kept]
        return Runs(self.ids[kept], self.of[kept], self.count, weights)


def runs_of(ids: Any, offsets: Any, weights: Any, include_last_offset: bool) -> Runs:
    """Return the bags of torch's EmbeddingBag.

    Args:
        ids: integers of shape (ids,) with offsets, or of shape (bags, ids of a bag).
        offsets: where each bag begins, or None.
        weights: floats in the shape of the ids, or None.
        include_last_offset: the last offset is the end of the last bag.

    Raises:
        BagError: they make no bags.
    """
    if weights is not None:
        if weights.dtype.is_complex or weights.dtype == torch.bool:
            raise BagError(f"expected weights as real numbers, got {weights.dtype}")
        if weights.shape != ids.shape:
            raise BagError(
                f"expected weights of the shape of the ids, {tuple(ids.shape)}, "
                f"got {tuple(weights.shape)}"
            )
        weights = weights.reshape(-1)
    if ids.dim() == 2:
        if offsets is not None or include_last_offset:
            got = "without" if offsets is None else "with"
            raise BagError(f"expected ids of rank 1 with offsets, got rank 2 {got} offsets")
        splits = torch.arange(len(ids) + 1, device=ids.device) * ids.shape[1]
        return Runs.between(ids.reshape(-1), splits, weights)
    if ids.device.type == "meta":
        return Runs.between(
            ids, offsets.new_empty(len(offsets) + (not include_last_offset)), weights
        )
    checked = as_splits(offsets.cpu().numpy(), len(ids), "offsets", closed=include_last_offset)
    return Runs.between(ids, torch.from_numpy(checked).to(ids.device), weights)


def combine(rows: Any, runs: Runs, combiner: str) -> Any:
    """Return a row for each bag: a tensor of shape (bags, dim) in the dtype of the rows.

    Args:
        rows: those of `runs.ids`, of shape (ids, dim).
        runs: the bags.
        combiner: "sum", "mean", "sqrtn" or "max"; see `Table.pool`.
    """
    dtype, rows, weights = rows.dtype, widened(rows), runs.weights
    if weights is not None:
        weights = weights.to(rows.dtype)
        rows = rows * weights[:, None]
    if combiner == "max":
        return _largest(rows, runs).to(dtype)
    found = rows.new_zeros((runs.count, rows.shape[1])).index_add(0, runs.of, rows)
    if combiner != "sum":
        shares = rows.new_ones(len(rows)) if weights is None else weights
        if combiner == "sqrtn":
            shares = shares * shares
        sums = rows.new_zeros(runs.count).index_add(0, runs.of, shares)[:, None]
        divisor = torch.where(sums == 0, 1.0, sums)
        divisor = divisor.sqrt() if combiner == "sqrtn" else divisor
        found = torch.where(sums == 0, 0.0, found / divisor)
    return found.to(dtype)


def _largest(rows: Any, runs: Runs) -> Any:
    """Return the largest values of each bag: NaN where there is one, zeros where there are none.

    The gradient of each goes to the first row that has it.
    """
    count, (ids, width), plain = runs.count, rows.shape, rows.detach()
    here = torch.arange(ids, device=rows.device)
    if rows.device.type != "meta" and rows.numel() and not bool(plain.max().isnan()):
        starts = torch.searchsorted(runs.of, torch.arange(count, device=rows.device))
        return torch.nn.functional.embedding_bag(here, rows, starts, mode="max")
    # What torch's bags make of NaN depends on its place.
    of, here = runs.of[:, None].expand(ids, width), here[:, None]
    lowest = plain.new_full((count, width), -torch.inf)
    top = lowest.scatter_reduce(0, of, plain, "amax")
    hits = (plain == top[runs.of]) | plain.isnan()
    places = torch.where(hits, here, ids)
    first = torch.full_like(top, ids, dtype=torch.int64).scatter_reduce(0, of, places, "amin")
    chosen = torch.where(here == first[runs.of], rows, 0.0)
    return rows.new_zeros((count, width)).index_add(0, runs.of, chosen)
