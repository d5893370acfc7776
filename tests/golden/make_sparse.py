"""Write the answers of TensorFlow's two sparse lookups to sparse.json.

Run it in an environment of its own, where `pip install tensorflow-cpu==2.21` was done:

    python tests/golden/make_sparse.py

Nothing else needs TensorFlow: test_lookup_sparse.py reads the file. The seed is fixed, so a second
run writes the same bytes. A table is `rows` x `shape` of numbers (i * 37 % 101 - 50) / 8, i from 0.
A case has ids as "indices", "values" and "dense_shape", or as "values" and "row_splits", and the
keyword arguments of the call; the answer is "shape" and "answer", in row-major order.
"""

import itertools
import json
import math
import os
from pathlib import Path

os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
import numpy as np
import tensorflow as tf

V1 = tf.compat.v1.nn
SEED = 2022
COMBINERS = ("sum", "mean", "sqrtn")


def table_of(rows, shape, dtype):
    count = rows * math.prod(shape)
    return ((np.arange(count) * 37 % 101 - 50) / 8).astype(dtype).reshape(rows, *shape)


def cut(table, strategy, shards):
    if shards == 1:
        return table
    if strategy == "mod":
        return [table[k::shards] for k in range(shards)]
    return np.array_split(table, shards)


class Maker:
    def __init__(self):
        self.rng = np.random.default_rng(SEED)
        self.cases = []

    def draw_sparse(self, shape, rows, *, share=0.5, negative=False, end=None):
        """Return indices and ids; `end` rows at the end have none."""
        places = np.argwhere(self.rng.random(shape) < share)
        if end:
            places = places[places[:, 0] < shape[0] - end]
        return places, self.draw_ids(len(places), rows, negative)

    def draw_ids(self, count, rows, negative):
        ids = self.rng.integers(0, rows, count)
        return np.where(self.rng.random(count) < 0.3, -1 - ids, ids) if negative else ids

    def draw_weights(self, count, kind):
        weights = self.rng.integers(1, 17, count) / 4
        if kind == "any":
            weights = self.rng.integers(-3, 6, count) / 2
        elif kind == "special" and count > 3:
            weights[:4] = [np.nan, np.inf, 0.0, -np.inf]
        return weights.astype(np.float32)

    def add(self, function, ids, weights, *, rows=7, shape=(3,), dtype="float32", shards=1, **args):
        """`ids` is (indices, values, dense_shape) or (values, row_splits)."""
        strategy = args.get("partition_strategy", "div" if function == "safe" else "mod")
        params = cut(table_of(rows, shape, dtype), strategy, shards)
        if len(ids) == 3:
            indices, given, shape_of_ids = ids
            names = ("indices", "values", "dense_shape")
        else:
            given, splits = ids
            names = ("values", "row_splits")

        def make(values):
            if len(ids) == 3:
                return tf.SparseTensor(indices, values, shape_of_ids)
            return tf.RaggedTensor.from_row_splits(values, splits)

        sp_weights = None if weights is None else make(weights)
        call = V1.safe_embedding_lookup_sparse if function == "safe" else V1.embedding_lookup_sparse
        answer = call(params, make(np.asarray(given, np.int64)), sp_weights, **args).numpy()
        case = {"function": function, "rows": rows, "row": shape, "dtype": dtype, "shards": shards}
        case |= {key: np.asarray(part).tolist() for key, part in zip(names, ids, strict=True)}
        case |= {"weights": None if weights is None else weights.tolist(), "args": args}
        flat = answer.astype(np.float64).ravel().tolist()
        digits = 17 if dtype == "float64" else 9  # as many as tell its numbers apart
        case |= {"shape": list(answer.shape), "answer": [float(f"{x:.{digits}g}") for x in flat]}
        self.cases.append(case)

    def add_grid(self):
        for function, combiner, weighted in itertools.product(
            ("plain", "safe"), COMBINERS, (None, "positive", "any")
        ):
            for shards, strategy in ((1, "mod"), (3, "mod"), (3, "div")):
                for max_norm in (None, 5.0):
                    shape = (5, 3)
                    places, ids = self.draw_sparse(shape, 7, negative=function == "safe")
                    weights = weighted and self.draw_weights(len(ids), weighted)
                    args = {"combiner": combiner, "max_norm": max_norm}
                    args["partition_strategy"] = strategy
                    if function == "safe" and self.rng.random() < 0.5:
                        args["default_id"] = int(self.rng.integers(0, 7))
                    self.add(function, (places, ids, shape), weights, shards=shards, **args)

    def add_ragged(self):
        for function, combiner, weighted in itertools.product(
            ("plain", "safe"), COMBINERS, (None, "positive", "any")
        ):
            lengths = self.rng.integers(0, 4, 5)
            splits = np.concatenate([[0], np.cumsum(lengths)])
            ids = self.draw_ids(splits[-1], 7, function == "safe")
            weights = weighted and self.draw_weights(len(ids), weighted)
            self.add(function, (ids, splits), weights, shards=2, combiner=combiner)
            if function == "safe":
                self.add(function, (ids, splits), weights, combiner=combiner, default_id=2)

    def add_ends(self):
        """Empty rows at the end, and nothing but empty rows."""
        for function, combiner, weighted in itertools.product(
            ("plain", "safe"), COMBINERS, (None, "positive")
        ):
            for end in (1, 3, 6):
                shape = (6, 3)
                places, ids = self.draw_sparse(shape, 7, end=end)
                if function == "plain" and not len(ids):
                    continue
                weights = weighted and self.draw_weights(len(ids), weighted)
                self.add(function, (places, ids, shape), weights, shards=2, combiner=combiner)

    def add_ranks(self):
        """Ids of rank 3 and 4, rows of rank 0 and 2."""
        for function, combiner, weighted in itertools.product(
            ("plain", "safe"), COMBINERS, (None, "any")
        ):
            for shape in ((3, 2, 2), (2, 1, 3, 2)):
                places, ids = self.draw_sparse(shape, 7, negative=function == "safe")
                weights = weighted and self.draw_weights(len(ids), weighted)
                self.add(function, (places, ids, shape), weights, combiner=combiner)
            shape = (4, 3)
            places, ids = self.draw_sparse(shape, 7)
            weights = weighted and self.draw_weights(len(ids), weighted)
            more = {"default_id": 1} if function == "safe" else {"max_norm": 6.0}
            given = (places, ids, shape), weights
            self.add(function, *given, shape=(2, 2), combiner=combiner, **more)
            if function == "plain":
                self.add(function, *given, shape=(), combiner=combiner, max_norm=2.0)

    def add_special(self):
        """Weights of NaN and infinity, defaults, other dtypes."""
        for function, combiner in itertools.product(("plain", "safe"), COMBINERS):
            places, ids = self.draw_sparse((5, 4), 7, share=0.7)
            weights = self.draw_weights(len(ids), "special")
            self.add(function, (places, ids, (5, 4)), weights, combiner=combiner)
            for dtype in ("float64", "float16"):
                places, ids = self.draw_sparse((4, 3), 7)
                weights = self.draw_weights(len(ids), "positive").astype(dtype)
                given = places, ids, (4, 3)
                self.add(function, given, None, dtype=dtype, combiner=combiner)
                self.add(function, given, weights, dtype=dtype, combiner=combiner)
            places, ids = self.draw_sparse((4, 3), 7)
            zeros = np.zeros(len(ids), np.float32)
            self.add(function, (places, ids, (4, 3)), zeros, combiner=combiner)
        for function in ("plain", "safe"):
            places, ids = self.draw_sparse((4, 3), 7)
            self.add(function, (places, ids, (4, 3)), None, shards=3)


def main():
    if not tf.__version__.startswith("2.21."):
        raise SystemExit(f"expected tensorflow-cpu 2.21, got {tf.__version__}")
    maker = Maker()
    maker.add_grid()
    maker.add_ragged()
    maker.add_ends()
    maker.add_ranks()
    maker.add_special()
    lines = ",\n".join(json.dumps(case, separators=(",", ":")) for case in maker.cases)
    Path(__file__).with_name("sparse.json").write_text("[\n" + lines + "\n]\n")
    print(f"{len(maker.cases)} cases")


if __name__ == "__main__":
    main()
