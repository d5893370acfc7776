"""Write the answers of TensorFlow's own `embedding_lookup` to lookup.npz and lookup.json.

Run it in an environment of its own, where `pip install tensorflow-cpu==2.21` was done:

    python tests/golden/make_golden.py

Nothing else needs TensorFlow: test_golden.py reads the two files. Seeds are fixed, so a second
run writes the same bytes; another CPU may change the last bit of answers that were clipped.

lookup.json lists the cases. A case's params are the first `rows` rows of lookup.npz's array
`table/<table>`, cut into `shards` shards by `strategy` (null: the array itself, not in a list), or
the Python list in `list`. `dtype` is TensorFlow's name of the answer's dtype. The answer has the
shape `shape` and lies in the flat array `answers/<dtype>`, from element `at` on: one array per case
would double the file. NumPy cannot save bfloat16 and float8: their bits are saved as unsigned ints.
"""

import json
import os
from itertools import count
from pathlib import Path
from typing import Any

os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"

import ml_dtypes
import numpy as np
import tensorflow as tf

Array = np.ndarray[Any, Any]
Shape = tuple[int, ...]

FOLDER = Path(__file__).parent
SEED = 2021
NUM_ROWS = 48

STRATEGIES = ("mod", "div")
SHARD_COUNTS = (1, 2, 3, 4, 5, 7, 8, 13)
ELEMENTS: tuple[Shape, ...] = ((), (5,), (2, 3), (2, 1, 3))
ID_SHAPES: tuple[Shape, ...] = ((), (0,), (1,), (7,), (3, 4), (2, 3, 4), (0, 5))
ID_DTYPES = ("int32", "int64")
MAX_NORMS = (0.5, 1.0, 3.0, 100.0)

BITS = {"bfloat16": "uint16", "float8_e4m3fn": "uint8", "float8_e5m2": "uint8"}
CLIPPED_DTYPES = ("float16", "float32", "float64", "bfloat16")
# TensorFlow stitches shards of these; of float8 it can only read one shard.
STITCHED_DTYPES = (
    *CLIPPED_DTYPES,
    *("int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"),
    *("bool", "complex64", "complex128", "S5"),
)
ONE_SHARD_DTYPES = ("float8_e4m3fn", "float8_e5m2")

# Lists of Python lists, each with the strategies for which its shards have the right lengths.
NESTED: dict[str, tuple[list[Any], tuple[str, ...]]] = {
    "floats": ([[0.2, 0.32, 0.9], [0.8, 0.62, 0.19], [0.41, 0.77, 0.05]], STRATEGIES),
    "ints": ([[1, 2], [3, 4], [5, 6]], STRATEGIES),
    "negative": ([[-1, 0, 7], [-8, 9, 5]], STRATEGIES),
    "int32-limits": ([[-(2**31), 0], [1, 2**31 - 1]], STRATEGIES),
    "past-int32": ([[2**31, -5], [7, 2**40], [2**63 - 1, -(2**63)]], STRATEGIES),
    "one-list-past-int32": ([[1, 2, 2**31]], STRATEGIES),
    "bools": ([[True, False], [False, True]], STRATEGIES),
    "floats-and-ints": ([[1, 2.5], [16777217, 0.5]], STRATEGIES),
    "float32-rounding": ([[0.1, 16777217.0, 1e-40], [1e-46, -0.0, 3.4e38]], STRATEGIES),
    "longer-first": ([[1, 2, 3], [4, 5], [6, 7]], STRATEGIES),
    "four-lists": ([[0.5, 1.5], [2.5, 3.5], [4.5, 5.5], [6.5, 7.5]], STRATEGIES),
    "three-levels-int": ([[[1, 2], [3, 4]], [[5, 6], [7, 8]]], STRATEGIES),
    "three-levels-float": (
        [[[0.1, 0.2], [0.3, 0.4], [0.5, 0.6]], [[0.7, 0.8], [0.9, 1.0]]],
        STRATEGIES,
    ),
    "four-levels": ([[[[1.0, 2.0]], [[3.0, 4.0]]], [[[5.0, 6.0]], [[7.0, 8.0]]]], STRATEGIES),
    "one-list-int": ([[1, 2, 3]], STRATEGIES),
    "one-list-float": ([[0.2, 0.32, 0.9]], STRATEGIES),
    "one-matrix": ([[[1.0, 2.0, 3.0], [3.0, 4.0, 5.0]]], STRATEGIES),
    "last-is-empty": ([[1.5], [2.5], []], ("mod",)),
}


def numpy_dtype(name: str) -> np.dtype[Any]:
    return np.dtype(getattr(ml_dtypes, name) if name in BITS else name)


def random_table(rng: np.random.Generator, name: str, element: Shape) -> Array:
    """Random bits: NaN payloads, signed zeros and subnormals must come through a lookup."""
    dtype = numpy_dtype(name)
    shape = (NUM_ROWS, *element)
    if name == "bool":
        return rng.random(shape) < 0.5
    size = int(np.prod(shape))
    if name == "S5":
        lengths = rng.integers(0, 6, size)
        return np.array([rng.bytes(n) for n in lengths], dtype).reshape(shape)
    return np.frombuffer(rng.bytes(size * dtype.itemsize), dtype).reshape(shape)


def special_values(name: str) -> Array:
    """What random bits seldom hit: the limits of a float format and their neighbours."""
    dtype = numpy_dtype(name)
    top = 1 << (8 * dtype.itemsize - 1)
    unsigned = f"u{dtype.itemsize}"
    infinity = int(np.array(np.inf, dtype).view(unsigned))
    patterns = [0, 1, infinity - 1, infinity, infinity + 1, top - 1]
    return np.array([p | sign for p in patterns for sign in (0, top)], unsigned).view(dtype)


def table_of_norms(rng: np.random.Generator, name: str, element: Shape) -> Array:
    """Zero rows, rows of exactly each max_norm, and rows on both sides of it."""
    size = int(np.prod(element))
    sides = [norm * factor for norm in MAX_NORMS for factor in (0.9, 0.998, 1.002, 1.1)]
    norms = [0.2, 2.0, 9.0, 50.0, 140.0, *sides]
    directions = rng.uniform(0.5, 1.0, (len(norms), size)) * rng.choice([-1, 1], (len(norms), size))
    directions /= np.sqrt(np.sum(directions**2, axis=1, keepdims=True))
    rows = [np.zeros(size), *(directions * np.array(norms)[:, None]), np.zeros(size)]
    exact: list[list[float]] = [[0.5], [-0.5], [-1.0], [3.0], [-3.0], [100.0]]
    if size > 1:
        exact += [[0.25] * 4, [-0.5] * 4, [1.0, -2.0, 2.0], [0.0, 60.0, 0.0, -80.0]]
    rows += [np.array(start + [0.0] * (size - len(start))) for start in exact]
    return np.array(rows).astype(numpy_dtype(name)).reshape(len(rows), *element)


def cut(table: Array, strategy: str, num_shards: int) -> list[Array]:
    if strategy == "mod":
        return [table[k::num_shards] for k in range(num_shards)]
    return np.array_split(table, num_shards)


def draw_ids(rng: np.random.Generator, rows: int, shape: Shape, dtype: str) -> Array:
    ids = rng.integers(0, rows, int(np.prod(shape))) if rows else np.zeros(0, np.int64)
    if ids.size > 3:
        ids[1], ids[-1] = rows - 1, ids[0]  # the last row, and a repeat
    return ids.reshape(shape).astype(dtype)


def shape_name(shape: Shape) -> str:
    return "x".join(map(str, shape)) or "scalar"


class Golden:
    """The two files while they grow."""

    def __init__(self) -> None:
        self.rng = np.random.default_rng(SEED)
        self.tables: dict[str, Array] = {}
        self.answers: dict[str, list[Array]] = {}  # flat, by TensorFlow's name of their dtype
        self.cases: dict[str, dict[str, Any]] = {}

    def add_table(self, key: str, table: Array) -> str:
        self.tables[key] = table
        return key

    def add(
        self,
        table: str,
        rows: int,
        shards: int | None,
        strategy: str,
        ids: Shape | Array,
        ids_dtype: str,
        max_norm: float | None = None,
    ) -> None:
        """One case on a table; a case that is there already is not added again."""
        full = self.tables[table][:rows]
        ids_shape = ids.shape if isinstance(ids, np.ndarray) else ids
        kind = "array" if shards is None else f"{strategy}-{shards}"
        name = f"{kind}-{table}-rows{rows}-ids-{shape_name(ids_shape)}-{ids_dtype}"
        if max_norm is not None:
            name += f"-norm-{max_norm:g}"
        if name in self.cases:
            return
        if not isinstance(ids, np.ndarray):
            ids = draw_ids(self.rng, rows, ids, ids_dtype)
        params = full if shards is None else cut(full, strategy, shards)
        description = {"table": table, "rows": rows, "shards": shards}
        self._record(name, description, params, ids, strategy, max_norm)

    def add_list(self, key: str, strategy: str, ids: Array, max_norm: float | None = None) -> None:
        """One case on a list of Python lists."""
        params = NESTED[key][0]
        name = f"list-{strategy}-{key}-ids-{shape_name(ids.shape)}-{ids.dtype}"
        if max_norm is not None:
            name += f"-norm-{max_norm:g}"
        description = {"list": params, "shards": len(params)}
        self._record(name, description, params, ids, strategy, max_norm)

    def _record(
        self,
        name: str,
        description: dict[str, Any],
        params: Any,
        ids: Array,
        strategy: str,
        max_norm: float | None,
    ) -> None:
        answer = tf.compat.v1.nn.embedding_lookup(
            params, ids, partition_strategy=strategy, max_norm=max_norm
        )
        dtype = answer.dtype.name
        array = np.asarray(answer.numpy(), "S5" if dtype == "string" else None)
        before = self.answers.setdefault(dtype, [])
        self.cases[name] = {
            "id": name,
            **description,
            "strategy": strategy,
            "ids": ids.ravel().tolist(),
            "ids_shape": ids.shape,
            "ids_dtype": ids.dtype.name,
            "max_norm": max_norm,
            "dtype": dtype,
            "shape": array.shape,
            "at": sum(part.size for part in before),
        }
        before.append(array.ravel())

    def write(self) -> None:
        arrays = {f"table/{key}": table for key, table in self.tables.items()}
        arrays |= {f"answers/{key}": np.concatenate(parts) for key, parts in self.answers.items()}
        savable = {key: a.view(BITS.get(a.dtype.name, a.dtype.str)) for key, a in arrays.items()}
        np.savez_compressed(FOLDER / "lookup.npz", allow_pickle=False, **savable)
        lines = ",\n".join(json.dumps(case, separators=(",", ":")) for case in self.cases.values())
        header = json.dumps({"tensorflow": tf.__version__, "numpy": np.__version__})[1:-1]
        (FOLDER / "lookup.json").write_text(f'{{{header}, "cases": [\n{lines}\n]}}\n')


def even_and_uneven(num_shards: int) -> tuple[int, int]:
    return 3 * num_shards, 3 * num_shards + (num_shards + 1) // 2


def add_plain(golden: Golden) -> None:
    """Every dtype on every shard count and rank, whole arrays, and every shape of ids."""
    tables = {
        (dtype, rank): golden.add_table(
            f"{dtype}-rank{rank + 1}", random_table(golden.rng, dtype, element)
        )
        for dtype in (*STITCHED_DTYPES, *ONE_SHARD_DTYPES)
        for rank, element in enumerate(ELEMENTS)
    }
    turn = count()

    def next_ids() -> tuple[Shape, str]:
        n = next(turn)
        return ID_SHAPES[n % len(ID_SHAPES)], ID_DTYPES[n // len(ID_SHAPES) % 2]

    for number, dtype in enumerate(STITCHED_DTYPES):
        for strategy in STRATEGIES:
            for place, shards in enumerate(SHARD_COUNTS):
                rows = even_and_uneven(shards)[(number + place) % 2]
                table = tables[dtype, (number + place) % len(ELEMENTS)]
                golden.add(table, rows, shards, strategy, *next_ids())
    for strategy in STRATEGIES:
        for shards in SHARD_COUNTS:
            for rows in even_and_uneven(shards):
                for rank in range(len(ELEMENTS)):
                    golden.add(tables["float32", rank], rows, shards, strategy, *next_ids())
    for strategy in STRATEGIES:
        for shards in (1, 3, 8):
            for shape in ID_SHAPES:
                for ids_dtype in ID_DTYPES:
                    golden.add(tables["float64", 1], 29, shards, strategy, shape, ids_dtype)
    for dtype in (*STITCHED_DTYPES, *ONE_SHARD_DTYPES):
        for rank in range(len(ELEMENTS)):
            golden.add(tables[dtype, rank], NUM_ROWS, None, "mod", *next_ids())
    for dtype in ONE_SHARD_DTYPES:
        for strategy in STRATEGIES:
            for rank in range(len(ELEMENTS)):
                golden.add(tables[dtype, rank], 11, 1, strategy, *next_ids())


def add_special(golden: Golden) -> None:
    for dtype in CLIPPED_DTYPES:
        table = golden.add_table(f"{dtype}-special", special_values(dtype))
        rows = len(golden.tables[table])
        ids = np.arange(rows)[::-1].copy()
        golden.add(table, rows, None, "mod", ids, "int64")
        for strategy in STRATEGIES:
            golden.add(table, rows, 5, strategy, ids, "int64")


def add_empty(golden: Golden) -> None:
    """Shards, tables and elements with nothing in them."""
    for shards in (4, 5, 7, 8, 13):
        golden.add("float32-rank2", 3, shards, "mod", (7,), "int32")
        golden.add("int64-rank1", 3, shards, "mod", (3, 4), "int64")
        golden.add("S5-rank3", 3, shards, "mod", (2, 3, 4), "int32")
        # With ids, TensorFlow divides by zero here: "div" gives every shard 3 // shards rows.
        golden.add("float32-rank2", 3, shards, "div", (0, 5), "int64")
    for strategy in STRATEGIES:
        for shards in (1, 3):
            golden.add("float32-rank2", 0, shards, strategy, (0, 5), "int32")
    for element in ((0,), (3, 0)):
        table = golden.add_table(
            f"float32-width-{shape_name(element)}", np.zeros((NUM_ROWS, *element), np.float32)
        )
        golden.add(table, 11, None, "mod", (3, 4), "int64")
        for strategy in STRATEGIES:
            golden.add(table, 11, 3, strategy, (3, 4), "int64")


def add_clipped(golden: Golden) -> None:
    turn = count()
    for dtype in CLIPPED_DTYPES:
        for rank, element in enumerate(ELEMENTS):
            table = golden.add_table(
                f"{dtype}-rank{rank + 1}-norms", table_of_norms(golden.rng, dtype, element)
            )
            rows = len(golden.tables[table])
            every = np.append(golden.rng.permutation(rows), 0).reshape(1, rows + 1)
            for max_norm in MAX_NORMS:
                n = next(turn)
                shards = SHARD_COUNTS[(n + n // len(MAX_NORMS)) % len(SHARD_COUNTS)]
                shape = ID_SHAPES[n % len(ID_SHAPES)]
                golden.add(table, rows, None, "mod", every[0], "int64", max_norm)
                golden.add(table, rows, shards, "mod", shape, "int32", max_norm)
                golden.add(table, rows, shards, "div", every, "int64", max_norm)


def add_nested(golden: Golden) -> None:
    for key, (params, strategies) in NESTED.items():
        rows = sum(map(len, params))
        for strategy in strategies:
            golden.add_list(key, strategy, np.arange(rows, dtype=np.int32))
            golden.add_list(key, strategy, draw_ids(golden.rng, rows, (3, 4), "int64"))
    for key in ("floats", "one-list-float", "three-levels-float"):
        rows = sum(map(len, NESTED[key][0]))
        for strategy in STRATEGIES:
            golden.add_list(key, strategy, np.array(rows - 1))
            golden.add_list(key, strategy, np.zeros(0, np.int32))
            golden.add_list(key, strategy, np.arange(rows), 0.5)


def main() -> None:
    if not tf.__version__.startswith("2.21."):
        raise SystemExit(f"expected tensorflow-cpu 2.21, got {tf.__version__}")
    golden = Golden()
    add_plain(golden)
    add_special(golden)
    add_empty(golden)
    add_clipped(golden)
    add_nested(golden)
    golden.write()
    print(f"{len(golden.cases)} cases")


if __name__ == "__main__":
    main()
