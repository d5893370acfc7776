"""The sparse lookups, against TensorFlow 2.21 and against a reference in NumPy.

golden/make_sparse.py says how TensorFlow's answers were made.
"""

import inspect
import json
import math
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shardwise import IdOutOfRangeError, OptionError, Partition, PartitionError, Table, TableError
from shardwise._bags import RaggedIds, SparseIds
from shardwise._errors import BagError
from shardwise._lookup_sparse import embedding_lookup_sparse, safe_embedding_lookup_sparse

CASES = json.loads((Path(__file__).parent / "golden" / "sparse.json").read_text())
# TensorFlow adds and divides in another order, and rounds at each step.
TOLERANCE = {"float64": 1e-14, "float32": 1e-6, "float16": 2e-3}
FUNCTIONS = {"plain": embedding_lookup_sparse, "safe": safe_embedding_lookup_sparse}
COMBINERS = ["sum", "mean", "sqrtn"]


def golden_table(case):
    count = case["rows"] * math.prod(case["row"])
    flat = ((np.arange(count) * 37 % 101 - 50) / 8).astype(case["dtype"])
    return flat.reshape(case["rows"], *case["row"])


def cut(table, strategy, shards):
    if shards == 1:
        return table
    if strategy == "mod":
        return [table[k::shards] for k in range(shards)]
    return np.array_split(table, shards)


def arguments(case):
    strategy = "div" if case["function"] == "safe" else "mod"
    strategy = case["args"].get("partition_strategy", strategy)
    params = cut(golden_table(case), strategy, case["shards"])
    if "row_splits" in case:
        ids = RaggedIds(np.array(case["values"], np.int64), case["row_splits"])
    else:
        values = np.array(case["values"], np.int64)
        ids = SparseIds(np.array(case["indices"], np.int64), values, case["dense_shape"])
    weights = None
    if case["weights"] is not None:
        weights = ids._replace(values=np.array(case["weights"], np.float32))
    return params, ids, weights


def close(found, expected, dtype):
    """Within rounding, where sums of large and small numbers may have cancelled."""
    assert found.dtype == dtype
    assert found.shape == expected.shape
    tolerance = TOLERANCE[str(dtype)]
    np.testing.assert_allclose(found, expected, rtol=tolerance, atol=10 * tolerance)


def test_the_cases():
    assert len(CASES) >= 200
    assert {case["args"].get("combiner", "none") for case in CASES} == {*COMBINERS, "none"}


@pytest.mark.parametrize("k", range(len(CASES)))
def test_tensorflows_answers(k):
    case = CASES[k]
    expected = np.array(case["answer"]).reshape(case["shape"])
    function, given = FUNCTIONS[case["function"]], arguments(case)
    found = function(*given, **case["args"], like_tensorflow=True)
    close(found, expected, golden_table(case).dtype)
    own = function(*given, **case["args"])
    if case["function"] == "plain":
        # Without the switch all bags are there: those of one index of the first axis are added up
        # by TensorFlow, so only rank 2 can be compared.
        ids = given[1]
        lead = (len(ids[1]) - 1,) if isinstance(ids, RaggedIds) else tuple(ids.dense_shape[:-1])
        assert own.shape == (*lead, *case["row"])
        if len(lead) == 1:
            np.testing.assert_array_equal(own[: len(expected)], found)
            assert not own[len(expected) :].any()
    elif case["args"].get("combiner") != "sum" or case["weights"] is None:
        np.testing.assert_array_equal(own, found)
    else:
        reference = pooled(case, *given, **case["args"])
        close(own, reference, own.dtype)


def bags_of(ids):
    """Return (places of the bag's entries, lead)."""
    if isinstance(ids, RaggedIds):
        splits = np.asarray(ids.row_splits)
        return [range(a, b) for a, b in pairwise(splits)], (len(splits) - 1,)
    lead = tuple(ids.dense_shape[:-1])
    found = {place: [] for place in np.ndindex(*lead)}
    for k, place in enumerate(np.asarray(ids.indices).reshape(-1, len(lead) + 1)):
        found[tuple(int(i) for i in place[:-1])].append(k)
    return list(found.values()), lead


def pooled(case, params, ids, weights, combiner="mean", max_norm=None, default_id=None, **_unused):
    """The formulas as they are written, one bag at a time, in float64."""
    safe = case["function"] == "safe"
    table = golden_table(case).astype(np.float64)
    if max_norm is not None:
        norms = np.sqrt((table.reshape(len(table), -1) ** 2).sum(axis=1))
        scale = np.minimum(1.0, max_norm / np.maximum(norms, 1e-300))
        table = table * scale.reshape(-1, *[1] * (table.ndim - 1))
    bags, lead = bags_of(ids)
    result = np.zeros((len(bags), *table.shape[1:]))
    for number, bag in enumerate(bags):
        pairs = [(ids.values[k], 1.0 if weights is None else float(weights.values[k])) for k in bag]
        if safe:
            pairs = [(i, w) for i, w in pairs if i >= 0 and w > 0]
        if not pairs and default_id is not None:
            result[number] = table[default_id]
        with np.errstate(all="ignore"):
            total = sum((w * table[i] for i, w in pairs), np.zeros(table.shape[1:]))
            divisor = 1.0
            if combiner == "mean":
                divisor = sum(w for _, w in pairs)
            elif combiner == "sqrtn":
                divisor = math.sqrt(sum(w * w for _, w in pairs))
            if pairs and divisor != 0:
                result[number] = total / divisor
    return result.reshape(*lead, *table.shape[1:])


@st.composite
def cases(draw):
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    function = draw(st.sampled_from(["plain", "safe"]))
    rows, shards = draw(st.integers(1, 12)), draw(st.integers(1, 5))
    case = {"function": function, "rows": rows, "shards": shards}
    case["row"] = draw(st.sampled_from([[3], [], [2, 2], [0], [17]]))
    case["dtype"] = draw(st.sampled_from(["float32", "float64"]))
    case["args"] = {"combiner": draw(st.sampled_from(COMBINERS))}
    case["args"]["max_norm"] = draw(st.sampled_from([None, 4.0]))
    case["args"]["partition_strategy"] = draw(st.sampled_from(["mod", "div"]))
    if function == "safe":
        case["args"]["default_id"] = draw(st.sampled_from([None, 0, rows - 1]))
    if draw(st.booleans()):
        case["row_splits"] = [0, *np.cumsum(rng.integers(0, 4, draw(st.integers(0, 5)))).tolist()]
        count = case["row_splits"][-1]
    else:
        shape = draw(st.lists(st.integers(0, 4), min_size=2, max_size=4))
        case["dense_shape"] = shape
        case["indices"] = np.argwhere(rng.random(shape) < 0.5).tolist()
        count = len(case["indices"])
        if not count:
            case["indices"] = np.zeros((0, len(shape)))
    case["values"] = rng.integers(-rows if function == "safe" else 0, rows, count)
    case["weights"] = draw(st.sampled_from([None, rng.integers(1, 9, count) / 4]))
    if case["weights"] is not None and function == "safe":
        case["weights"] = rng.integers(-4, 9, count) / 4
    return case


@given(case=cases())
@settings(deadline=None)
def test_a_reference(case):
    given = arguments(case)
    found = FUNCTIONS[case["function"]](*given, **case["args"])
    close(found, pooled(case, *given, **case["args"]), np.dtype(case["dtype"]))


def test_signatures():
    """Every argument of TensorFlow's may come by position."""

    def names(function):
        parameters = inspect.signature(function).parameters.values()
        return [p.name for p in parameters if p.kind is p.POSITIONAL_OR_KEYWORD]

    assert names(embedding_lookup_sparse) == [
        "params",
        "sp_ids",
        "sp_weights",
        "partition_strategy",
        "name",
        "combiner",
        "max_norm",
    ]
    assert names(safe_embedding_lookup_sparse) == [
        "embedding_weights",
        "sparse_ids",
        "sparse_weights",
        "combiner",
        "default_id",
        "name",
        "partition_strategy",
        "max_norm",
    ]


ROWS = np.arange(12, dtype=np.float32).reshape(6, 2)
IDS = RaggedIds([1, 5, 0], [0, 2, 2, 3])


def test_every_form_of_bags():
    expected = embedding_lookup_sparse(ROWS, IDS, None)
    assert expected.tolist() == [[6, 7], [0, 0], [0, 1]]
    sparse = SparseIds([[0, 0], [0, 1], [2, 0]], [1, 5, 0], [3, 2])
    lists = [[1, 5], [], [0]]
    for ids in (sparse, lists):
        np.testing.assert_array_equal(embedding_lookup_sparse(ROWS, ids, None), expected)
        np.testing.assert_array_equal(safe_embedding_lookup_sparse(ROWS, ids), expected)
    assert embedding_lookup_sparse(ROWS, [[1, 5]], [[3, 1]], combiner="sum").tolist() == [[16, 20]]


def test_every_form_of_params():
    expected = embedding_lookup_sparse(ROWS, IDS, None)
    partition = Partition.ranges([0, 1, 6])
    for params, strategy in [
        (Table.from_array(ROWS, 4), "mod"),
        ([ROWS[::2], ROWS[1::2]], "mod"),
        ((ROWS[:3], ROWS[3:]), "div"),
        ([ROWS[:1], ROWS[1:]], partition),
    ]:
        for function in FUNCTIONS.values():
            found = function(params, IDS, None, partition_strategy=strategy)
            np.testing.assert_array_equal(found, expected)
    assert safe_embedding_lookup_sparse([ROWS[:3], ROWS[3:]], IDS).tolist() == expected.tolist()


def test_rows_of_tensorflow():
    ids = RaggedIds([1], [0, 0, 1, 1, 1])
    assert embedding_lookup_sparse(ROWS, ids, None).shape == (4, 2)
    assert embedding_lookup_sparse(ROWS, ids, None, like_tensorflow=True).shape == (2, 2)
    none = RaggedIds([], [0, 0, 0])
    assert embedding_lookup_sparse(ROWS, none, None, like_tensorflow=True).shape == (0, 2)
    cube = SparseIds([[0, 0, 0], [0, 1, 0], [1, 0, 1]], [1, 2, 3], [3, 2, 2])
    found = embedding_lookup_sparse(ROWS, cube, None, combiner="sum")
    assert found[:, :, 0].tolist() == [[2, 4], [6, 0], [0, 0]]
    found = embedding_lookup_sparse(ROWS, cube, None, combiner="sum", like_tensorflow=True)
    assert found[:, 0].tolist() == [6, 6]
    empty = SparseIds([], [], [3, 0, 2])
    assert embedding_lookup_sparse(ROWS, empty, None).shape == (3, 0, 2)
    assert embedding_lookup_sparse(ROWS, empty, None, like_tensorflow=True).shape == (0, 2)


def test_weights_that_are_not_above_zero():
    ids, weights = RaggedIds([1, 2, 3], [0, 3]), RaggedIds([1.0, 0.0, -1.0], [0, 3])
    both = {"combiner": "sum"}
    assert safe_embedding_lookup_sparse(ROWS, ids, weights, **both).tolist() == [[2, 3]]
    found = safe_embedding_lookup_sparse(ROWS, ids, weights, **both, like_tensorflow=True)
    assert found.tolist() == [[-4, -4]]
    nothing = RaggedIds([0.0, -1.0, np.nan], [0, 3])
    assert safe_embedding_lookup_sparse(ROWS, ids, nothing, default_id=4).tolist() == [[8, 9]]
    weighed = embedding_lookup_sparse(ROWS, ids, nothing)
    assert np.isnan(weighed).all()


def test_ids_outside():
    for function in FUNCTIONS.values():
        with pytest.raises(IdOutOfRangeError, match="6"):
            function(ROWS, [[1, 6]], None)
        assert function(ROWS, [[1, 6]], None, out_of_range="clamp").tolist() == [[6, 7]]
    with pytest.raises(IdOutOfRangeError, match="-1"):
        embedding_lookup_sparse(ROWS, [[1, -1]], None)
    assert safe_embedding_lookup_sparse(ROWS, [[-1, -(2**63)]]).tolist() == [[0, 0]]
    with pytest.raises(IdOutOfRangeError, match="default_id"):
        safe_embedding_lookup_sparse(ROWS, [[1]], default_id=6)
    assert safe_embedding_lookup_sparse(ROWS[:0], [[-1], [-2]]).tolist() == [[0, 0], [0, 0]]
    with pytest.raises(IdOutOfRangeError):
        safe_embedding_lookup_sparse(ROWS, np.array([[2**64 - 1]], np.uint64))


@pytest.mark.parametrize("function", FUNCTIONS.values())
def test_wrong_arguments(function):
    with pytest.raises(TableError):
        function(None, IDS, None)
    with pytest.raises(TableError):
        function([], IDS, None)
    with pytest.raises(TableError):
        function(ROWS.astype(np.int32), IDS, None)
    with pytest.raises(PartitionError):
        function(ROWS, IDS, None, partition_strategy="modulo")
    with pytest.raises(OptionError):
        function(ROWS, IDS, None, combiner="median")
    with pytest.raises(OptionError):
        function(ROWS, IDS, None, max_norm=float("nan"))
    with pytest.raises(BagError):
        function(ROWS, [1, 2], None)
    with pytest.raises(BagError):
        function(ROWS, IDS, IDS._replace(row_splits=[0, 1, 2, 3]))
    with pytest.raises(BagError, match="memory"):
        function(ROWS, SparseIds([[0, 0]], [1], [10**12, 1]), None)
