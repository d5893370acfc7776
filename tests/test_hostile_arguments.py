"""What `python -m reliability arguments` has found: arguments of kinds that nobody asked about."""

import warnings

import numpy as np
import pytest

import shardwise
from shardwise import (
    FormatError,
    OptionError,
    Partition,
    PartitionError,
    Table,
    TableError,
    Vectors,
    Vocabulary,
    VocabularyError,
    convert,
    formats,
    initializers,
    optimizers,
    store,
)

ROWS = np.arange(12, dtype=np.float32).reshape(4, 3)
TABLE = Table.from_array(ROWS)
WORDS = Vocabulary(["a", "b", "c", "d"])
VECTORS = Vectors(TABLE, WORDS)
SHAPED = {"shape": (4, 3), "dtype": "float32"}
MASKED = np.ma.masked_array(np.ones(1), mask=True)
ARRAYS = [np.zeros(0), np.array(["mod", "mod"]), np.ones((2, 2)), np.zeros((), ">i8")]


# Of an array, == has no plain answer, and so a name is not looked for among others.
@pytest.mark.parametrize("array", ARRAYS, ids=["none", "names", "matrix", "number"])
@pytest.mark.parametrize(
    "call",
    [
        lambda array, path: Table.open(path, array),
        lambda array, path: Partition(array, 4, 2),
        lambda array, path: TABLE.pool([[0, 1]], combiner=array),
        lambda array, path: TABLE.update([0], ROWS[:1], optimizers.SGD(), nonfinite=array),
        lambda array, path: TABLE.update_pool(
            [[0]], None, ROWS[:1], optimizers.SGD(), combiner=array
        ),
        lambda array, path: initializers.Initializer(array),
        lambda array, path: formats.write(path / "a", formats.table_source(TABLE), format=array),
        lambda array, path: TABLE.lookup(0, out_of_range=array if array.ndim else array + 9),
        lambda array, path: Vocabulary(["a"], normal_form=array),
        lambda array, path: Vocabulary.build(["a"], ties=array),
        lambda array, path: VECTORS.subset(["a"], missing=array),
        lambda array, path: VECTORS.merge(VECTORS, conflict=array),
        lambda array, path: VECTORS.lookup(["a"], sentences=array),
        lambda array, path: formats.open(path, format=array),
        lambda array, path: formats.open(path, partition=array),
        lambda array, path: formats.open_vocabulary(path, format=array),
        lambda array, path: formats.table_source(TABLE, metadata=array),
        lambda array, path: convert(path, "new", to=array),
        lambda array, path: convert(path, "new", progress=array),
        lambda array, path: store.reshard(path, "new", shards=array if array.ndim else "2"),
        lambda array, path: shardwise.Buckets(3).start(array if array.ndim else 1.5),
    ],
)
def test_arrays_as_options(call, array, tmp_path):
    TABLE.save(tmp_path / "table")
    with pytest.raises((OptionError, PartitionError), match="expected"):
        call(array, tmp_path / "table")


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (
            lambda: Partition.from_json(np.zeros(3)),
            PartitionError,
            "as a Mapping, got ndarray",
        ),
        (lambda: store.write_table("new", "t"), TableError, "table as a Table, got str"),
        (lambda: store.write_checkpoint(3, "new"), TableError, "table as a Table, got int"),
        (lambda: formats.table_source(ROWS), TableError, "table as a Table, got ndarray"),
        (
            lambda: store.write_table("new", TABLE, vocabulary=["a"]),
            VocabularyError,
            "vocabulary as a Vocabulary, got list",
        ),
        (
            lambda: formats.table_source(TABLE, ["a"]),
            VocabularyError,
            "vocabulary as a Vocabulary, got list",
        ),
        (
            lambda: formats.write_vocabulary(["a"], "new.txt"),
            VocabularyError,
            "vocabulary as a Vocabulary, got list",
        ),
        (
            lambda: store.save_vocabulary("new.safetensors", ["a"]),
            VocabularyError,
            "vocabulary as a Vocabulary, got list",
        ),
        (lambda: formats.write("new.npy", TABLE), FormatError, "source as a Source, got Table"),
        (
            lambda: store.create_table("new", **SHAPED, partition="mod", initializer="zeros"),
            PartitionError,
            "partition as a Partition, got str",
        ),
        (
            lambda: store.write_blocks("new", [ROWS], **SHAPED, partition="mod"),
            PartitionError,
            "partition as a Partition, got str",
        ),
        (
            lambda: store.write_blocks("new", [ROWS], shape=ROWS, dtype="f4", partition=None),
            TableError,
            "shape as a tuple, got ndarray",
        ),
        (
            lambda: store.create_table("new", ROWS, dtype="f4", partition=None, initializer=None),
            TableError,
            "shape as a tuple, got ndarray",
        ),
        (
            lambda: initializers.normal().maker([4, 3], np.dtype("f4")),
            OptionError,
            "shape as a tuple, got list",
        ),
        (
            lambda: shardwise.Buckets(3).ids([1], None, 2),
            OptionError,
            "as a ndarray, got list",
        ),
        (
            lambda: shardwise.Buckets(3).ids(np.zeros(1, "u1"), np.zeros(0, "i8"), 2),
            OptionError,
            "offsets of shape",
        ),
        (
            lambda: VECTORS.similar_by_vector([[], [1]]),
            TableError,
            "expected a vector, or an array",
        ),
        (
            lambda: initializers.normal().maker((4, 3), np),
            OptionError,
            "dtype as a dtype, got module",
        ),
        (lambda: WORDS.decode([9], missing=3), OptionError, "missing as a str, or None, got 3"),
        # float() of a masked number warns, and gives NaN.
        (lambda: initializers.normal(MASKED), OptionError, "expected finite numbers"),
        (lambda: optimizers.SGD(MASKED), OptionError, "expected learning_rate of SGD"),
        (lambda: TABLE.lookup(0, max_norm=MASKED), OptionError, "expected max_norm as a number"),
    ],
)
def test_other_things(call, error, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(error, match=message):
            call()
    assert not list(tmp_path.iterdir())


def test_a_number_is_no_path():
    """`open` would take it as a descriptor, and close it: 2 is where errors are printed."""
    with pytest.raises(TypeError):
        VECTORS.evaluate_pairs(2)
