"""Write quantize.npz: rows, and PyTorch 2.13's bytes and values of them (run in this folder)."""

import numpy as np
import torch

ops = torch.ops.quantized
random = np.random.default_rng(20)
arrays = {}
for dim in (2, 8, 34, 70):
    rows = random.standard_normal((20, dim)).astype(np.float32)
    rows[:12] *= 10.0 ** np.linspace(-44, 3.5, 12, dtype=np.float64)[:, None]
    rows[12:14] += 1000  # far from 0
    rows[14] = rows[14, 0]  # equal values
    rows[15] = 0
    rows[16] = random.choice(np.array([0.0, -0.0], np.float32), dim)
    rows[17] = np.abs(rows[17]) * (random.random(dim) < 0.5) * -0.0 + (random.random(dim) < 0.3)
    rows[18] = random.integers(0, 2, dim) * 65504.0 - 65504.0
    for name, given in (("float32", rows), ("float16", rows.astype(np.float16))):
        tensor = torch.tensor(given)
        int8, int4 = ops.embedding_bag_byte_prepack(tensor), ops.embedding_bag_4bit_prepack(tensor)
        key = f"{dim}/{name}"
        arrays[f"{key}/rows"] = given
        arrays[f"{key}/int8"] = int8.numpy()
        arrays[f"{key}/int4"] = int4.numpy()
        arrays[f"{key}/int8/values"] = ops.embedding_bag_byte_unpack(int8).numpy()
        arrays[f"{key}/int4/values"] = ops.embedding_bag_4bit_unpack(int4).numpy()
np.savez_compressed("quantize.npz", **arrays)
