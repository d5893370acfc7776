"""Write the gradients that TensorFlow's lookups give to shards and weights to gradients.json.

Run it in an environment of its own, where `pip install tensorflow-cpu==2.21` was done:

    python tests/golden/make_gradients.py

Nothing else needs TensorFlow: test_torch_lookups.py reads the file. The seed is fixed, so a second
run writes the same bytes. A table is `rows` x `row` of float64 numbers (i * 37 % 101 - 50) / 8, i
from 0, cut by the strategy; the gradient of the answer is sin(0, 1, 2, ...). A case has ids as
"ids" of a shape, as "indices", "values" and "dense_shape", or as "values" and "row_splits", and the
keyword arguments of the call. Its answers, in row-major order, are "answer", "shards" (a gradient
for each) and "weights".
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
CALLS = {
    "lookup": V1.embedding_lookup,
    "plain": V1.embedding_lookup_sparse,
    "safe": V1.safe_embedding_lookup_sparse,
}
ROWS = 7


def table_of(row):
    count = ROWS * math.prod(row)
    return ((np.arange(count) * 37 % 101 - 50) / 8).reshape(ROWS, *row)


def cut(table, strategy, shards):
    if strategy == "mod":
        return [table[k::shards] for k in range(shards)]
    return np.array_split(table, shards)


def numbers(tensor):
    return [float(f"{x:.17g}") for x in np.asarray(tensor).ravel()]


def answer(case):
    """The answer of a case, and the gradients of what it was made of."""
    strategy = case["args"]["partition_strategy"]
    shards = [tf.constant(s) for s in cut(table_of(case["row"]), strategy, case["shards"])]
    weights = None if case.get("weights") is None else tf.constant(case["weights"], tf.float64)
    with tf.GradientTape() as tape:
        tape.watch(shards)
        if weights is not None:
            tape.watch(weights)

        def form(values):
            if "row_splits" in case:
                return tf.RaggedTensor.from_row_splits(values, case["row_splits"])
            return tf.SparseTensor(case["indices"], values, case["dense_shape"])

        params = shards if len(shards) > 1 else shards[0]
        if case["function"] == "lookup":
            given = [np.array(case["ids"])]
        else:
            given = [form(np.array(case["values"], np.int64))]
            given.append(None if weights is None else form(weights))
        found = CALLS[case["function"]](params, *given, **case["args"])
        up = tf.reshape(tf.sin(tf.range(tf.size(found), dtype=tf.float64)), found.shape)
        loss = tf.reduce_sum(found * up)
    asked = [*shards, *([] if weights is None else [weights])]
    gradients = tape.gradient(loss, asked, unconnected_gradients="zero")
    dense = [numbers(tf.convert_to_tensor(gradient)) for gradient in gradients]
    count = len(shards)
    return {
        "answer": numbers(found),
        "shards_of_gradients": dense[:count],
        "weights_of_gradients": dense[count] if weights is not None else None,
    }


def cases():
    rng = np.random.default_rng(2026)
    cuts = [(1, "mod"), (3, "mod"), (3, "div")]
    for (shards, strategy), max_norm, row in itertools.product(
        cuts, (None, 5.0), ([3], [2, 2], [])
    ):
        args = {"partition_strategy": strategy, "max_norm": max_norm}
        ids = rng.integers(0, ROWS, (3, 4)).tolist()  # 12 of 7: some are there again
        yield {"function": "lookup", "row": row, "shards": shards, "ids": ids, "args": args}
    for function, combiner, weighted, (shards, strategy), max_norm in itertools.product(
        ("plain", "safe"), ("sum", "mean", "sqrtn"), (False, True), cuts, (None, 5.0)
    ):
        args = {"partition_strategy": strategy, "max_norm": max_norm, "combiner": combiner}
        case = {"function": function, "row": [3], "shards": shards, "args": args}
        if rng.random() < 0.5:
            lengths = [3, *rng.integers(0, 4, 3), 4]
            case["row_splits"] = np.concatenate([[0], np.cumsum(lengths)]).tolist()
            count = case["row_splits"][-1]
        else:
            places = np.argwhere(rng.random((5, 4)) < 0.7)
            places = places if 4 in places[:, 0] else np.concatenate([places, [[4, 0]]])
            case["indices"], case["dense_shape"] = places.tolist(), [5, 4]
            count = len(places)
        ids = rng.integers(0, ROWS, count)
        if function == "safe":
            ids = np.where(rng.random(count) < 0.4, -1 - ids, ids)
            args["default_id"] = [None, 2][int(rng.integers(0, 2))]
        case["values"] = ids.tolist()
        if weighted:
            low = -2 if function == "safe" and combiner != "sum" else 1
            case["weights"] = (rng.integers(low, 9, count) / 4).tolist()
        yield case


def main():
    if not tf.__version__.startswith("2.21."):
        raise SystemExit(f"expected tensorflow-cpu 2.21, got {tf.__version__}")
    found = [case | answer(case) for case in cases()]
    lines = ",\n".join(json.dumps(case, separators=(",", ":")) for case in found)
    Path(__file__).with_name("gradients.json").write_text("[\n" + lines + "\n]\n")
    print(f"{len(found)} cases")


if __name__ == "__main__":
    main()
