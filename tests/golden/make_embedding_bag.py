"""Write embedding_bag.npz: PyTorch 2.13's `embedding_bag` in all its ways (run in this folder)."""

import json
from itertools import product

import numpy as np
import torch

random = np.random.default_rng(21)
arrays, cases = {}, []
lengths = [3, 0, 1, 70, 0, 5, 130, 2, 0]
offsets = np.concatenate([[0], np.cumsum(lengths)])
ids = random.integers(0, 30, offsets[-1])
matrix = random.integers(0, 30, (8, 6))
arrays |= {"offsets": offsets, "ids": ids, "matrix": matrix}
for dtype, dim in product(("float32", "float64", "float16", "bfloat16"), (1, 5, 64, 67)):
    rows = torch.tensor(random.standard_normal((30, dim))).to(getattr(torch, dtype))
    key = f"{dtype}-{dim}"
    arrays[f"{key}/rows"] = rows.to(torch.float64).numpy()  # exact
    weights = random.standard_normal(len(ids))
    arrays[f"{key}/weights"] = torch.tensor(weights).to(rows.dtype).to(torch.float64).numpy()
    own = torch.tensor(weights).to(rows.dtype)
    for mode, form, padding, weighted in product(
        ("sum", "mean", "max"), ("offsets", "last", "matrix"), (None, 7), (False, True)
    ):
        if weighted and mode != "sum":
            continue  # PyTorch refuses it
        if mode == "max" and dtype in ("float16", "bfloat16"):
            continue  # nor does it know this
        given = {
            "offsets": (ids, offsets[:-1], False),
            "last": (ids, offsets, True),
            "matrix": (matrix, None, False),
        }[form]
        result = torch.nn.functional.embedding_bag(
            torch.tensor(given[0]),
            rows,
            None if given[1] is None else torch.tensor(given[1]),
            mode=mode,
            include_last_offset=given[2],
            padding_idx=padding,
            per_sample_weights=None
            if not weighted
            else (own if form != "matrix" else own[: matrix.size].reshape(matrix.shape)),
        )
        cases.append({"key": key, "mode": mode, "form": form, "padding": padding, "w": weighted})
        arrays[f"case{len(cases) - 1}"] = result.to(torch.float64).numpy()
arrays["cases"] = np.frombuffer(json.dumps(cases).encode(), np.uint8)
np.savez_compressed("embedding_bag.npz", **arrays)
print(len(cases), "cases")
