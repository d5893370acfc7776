"""What bags may be, and what is said of those that are none."""

import itertools
import sys
from types import SimpleNamespace

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shardwise import IdTypeError
from shardwise._bags import RaggedIds, SparseIds, as_bags
from shardwise._errors import BagError

INTEGERS = ["int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"]
LISTS = st.lists(st.lists(st.integers(0, 100), max_size=5), max_size=6)
# The bags (1, 2), (), (3,), () in every form.
SPARSE = SparseIds([[0, 0], [0, 3], [2, 1]], [1, 2, 3], [4, 5])
RAGGED = RaggedIds([1, 2, 3], [0, 2, 2, 3, 3])


def check(bags, expected, weights=None, lead=None):
    values, offsets = bags.values, bags.offsets
    assert values.ndim == 1
    assert values.dtype.kind in "iu"
    assert values.flags.c_contiguous
    assert offsets.dtype == np.int64
    assert offsets.flags.c_contiguous
    assert offsets[0] == 0
    assert offsets[-1] == len(values)
    found = [values[a:b].tolist() for a, b in itertools.pairwise(offsets)]
    assert found == expected
    assert bags.lead == ((len(expected),) if lead is None else lead)
    if weights is None:
        assert bags.weights is None
    else:
        assert bags.weights.dtype in (np.float32, np.float64)
        assert bags.weights.flags.c_contiguous
        assert bags.weights.tolist() == weights


def refused(match, *args, error=BagError, **kwargs):
    with pytest.raises(error, match=match):
        as_bags(*args, **kwargs)


@pytest.mark.parametrize("dtype", INTEGERS)
def test_offsets_of_every_dtype(dtype):
    check(as_bags(np.arange(4, dtype=dtype), np.array([0, 2, 2], dtype)), [[0, 1], [], [2, 3]])


def test_offsets_have_torchs_meaning():
    ids = [5, 6, 7, 8]
    check(as_bags(ids, [0]), [ids])
    check(as_bags(ids, [0, 4]), [ids, []])
    check(as_bags(ids, [0, 2, 4], include_last_offset=True), [[5, 6], [7, 8]])
    check(as_bags(ids, [0, 2, 3], [1, 2, 3, 4], include_last_offset=True), [[5, 6], [7]], [1, 2, 3])
    check(as_bags(ids, [0], include_last_offset=True), [])
    check(as_bags([], []), [])
    check(as_bags([], [0, 0]), [[], []])


@settings(deadline=None)
@given(bags=LISTS, last=st.booleans())
def test_offsets_as_torch(bags, last):
    torch = pytest.importorskip("torch")
    ids = [i for bag in bags for i in bag]
    offsets = np.cumsum([0, *map(len, bags)])[: None if last else -1]
    found = as_bags(ids, offsets, include_last_offset=last)
    check(found, bags)
    if bags:
        rows = torch.arange(101.0, dtype=torch.float64)[:, None] + 1
        expected = torch.nn.functional.embedding_bag(
            torch.tensor(ids, dtype=torch.int64),
            rows,
            torch.tensor(offsets),
            mode="sum",
            include_last_offset=last,
        )
        sums = [float(sum(bag) + len(bag)) for bag in bags]
        assert expected[:, 0].tolist() == sums


@pytest.mark.parametrize(
    ("match", "offsets"),
    [
        ("begin with 0, got offsets\\[0\\] = 1", [1, 2]),
        ("never fall, got offsets\\[2\\] = 1 after 2", [0, 2, 1]),
        ("from 0 to 3.*offsets\\[1\\] = 4", [0, 4]),
        ("from 0 to 3.*offsets\\[1\\] = -1", [0, -1]),
        ("offsets\\[1\\] = 18446744073709551615", np.array([0, 2**64 - 1], np.uint64)),
        ("offsets\\[1\\] = 9223372036854775808", np.array([0, 2**63], np.uint64)),
        ("rank 1, got the shape \\(1, 2\\)", [[0, 1]]),
        ("rank 1, got the shape \\(\\)", 0),
        ("begin with 0, got none", []),
    ],
)
def test_bad_offsets(match, offsets):
    refused(match, [1, 2, 3], offsets)


@pytest.mark.parametrize("offsets", [[0.0, 1.0], [True], ["0"], np.zeros(2), [0, 2**64], [None]])
def test_offsets_that_are_no_integers(offsets):
    refused("offsets", [1, 2, 3], offsets, error=IdTypeError)


def test_offsets_with_other_forms():
    refused("rank 1", [[1, 2]], [0])
    refused("begin with 0", [], [], include_last_offset=True)
    refused("got none", [[1, 2]], include_last_offset=True)
    refused("pass offsets", [1, 2])
    refused("pass offsets", np.array([1, 2]))
    refused("pass offsets", 7)
    refused("integer", [1.5], [0], error=IdTypeError)
    refused("as many weights as ids, 2", [1, 2], [0], [1.0])
    refused("as many weights as ids, 2", [1, 2], [0], [[1.0, 2.0]])


def test_offsets_are_a_copy():
    for closed in (False, True):
        offsets = np.array([0, 1, 2])
        bags = as_bags([1, 2], offsets, include_last_offset=closed)
        splits = as_bags(RaggedIds([1, 2], offsets))
        offsets[:] = 10**12
        assert bags.offsets[-1] == splits.offsets[-1] == 2


def test_batches():
    check(as_bags([[1, 2], [3, 4]]), [[1, 2], [3, 4]])
    ids = np.arange(12).reshape(2, 3, 2)
    check(as_bags(ids), ids.reshape(6, 2).tolist(), lead=(2, 3))
    check(as_bags(ids[:, ::2], weights=ids[:, ::2]), [[0, 1], [4, 5], [6, 7], [10, 11]],
          [0, 1, 4, 5, 6, 7, 10, 11], lead=(2, 2))  # fmt: skip
    check(as_bags(np.zeros((3, 0), int)), [[], [], []])
    check(as_bags(np.zeros((2, 0, 5), int)), [], lead=(2, 0))
    check(as_bags([[], []], weights=[[], []]), [[], []], [])


@settings(deadline=None)
@given(bags=LISTS, arrays=st.booleans(), weighted=st.booleans())
def test_lists(bags, arrays, weighted):
    given = [np.array(bag, np.int32) for bag in bags] if arrays else bags
    weights = [[i / 2 for i in bag] for bag in bags] if weighted else None
    flat = [i / 2 for bag in bags for i in bag] if weighted else None
    check(as_bags(given, weights=weights), bags, flat)
    check(as_bags(tuple(map(tuple, bags))), bags)


def test_lists_of_other_things():
    check(as_bags([range(2), (5,), np.array([7], np.uint8)]), [[0, 1], [5], [7]])
    check(as_bags([np.array([2**64 - 1], np.uint64), []]), [[2**64 - 1], []])
    refused("list of bags, got one of 3 numbers", [1, 2, 3])
    refused("integer", [[1.5], [2, 3]], error=IdTypeError)
    refused("integer", ["ab", "c"], error=IdTypeError)
    refused("expected", [[1], 2], error=IdTypeError)
    refused("expected", [[1], [[2], [3]]], error=(IdTypeError, BagError))
    refused("rank 1", [[[1]], [[2], [3]]])
    refused("expected", [b"ab", b"c"], error=IdTypeError)
    refused("expected", [[1, 2**64], [2]], error=IdTypeError)


def test_sparse():
    expected = [[1, 2], [], [3], []]
    check(as_bags(SPARSE), expected)
    check(as_bags(SPARSE, weights=SPARSE), expected, [1, 2, 3])
    check(as_bags(SPARSE, weights=SPARSE._replace(values=[0.5, 1, 2])), expected, [0.5, 1, 2])
    check(as_bags(SPARSE, weights=np.float16([0.5, 1, 2])), expected, [0.5, 1, 2])
    check(as_bags(SimpleNamespace(**SPARSE._asdict())), expected)
    check(as_bags(SparseIds([], [], [3, 2])), [[], [], []])
    check(as_bags(SparseIds(np.zeros((0, 2), int), [], [0, 0])), [])
    check(as_bags(SparseIds([[0, 0], [0, 0]], [4, 4], [1, 1])), [[4, 4]])
    three = SparseIds([[0, 1, 1], [1, 0, 0], [1, 0, 1]], [4, 5, 6], [2, 2, 2])
    check(as_bags(three), [[], [4], [5, 6], []], lead=(2, 2))


@settings(deadline=None)
@given(
    shape=st.lists(st.integers(0, 4), min_size=2, max_size=4),
    seed=st.integers(0, 100),
    dtype=st.sampled_from(INTEGERS),
)
def test_sparse_arrays(shape, seed, dtype):
    full = np.random.default_rng(seed).random(shape) < 0.5
    places = np.argwhere(full)
    ids = SparseIds(places.astype(dtype), np.arange(len(places)), np.array(shape, dtype))
    numbers = iter(range(len(places)))
    expected = [
        [next(numbers) for _ in range(int(full[place].sum()))] for place in np.ndindex(*shape[:-1])
    ]
    check(as_bags(ids), expected, lead=tuple(shape[:-1]))


@pytest.mark.parametrize(
    ("match", "change"),
    [
        ("row-major order, got indices\\[1\\] = \\(0, 3\\)", {"indices": [[2, 0], [0, 3], [2, 1]]}),
        ("row-major order", {"indices": [[0, 3], [0, 0], [2, 1]]}),
        ("indices\\[2\\] = \\(4, 1\\).*axis 0", {"indices": [[0, 0], [0, 3], [4, 1]]}),
        ("axis 1", {"indices": [[0, 0], [0, 3], [2, 5]]}),
        ("axis 0", {"indices": [[-1, 0], [0, 3], [2, 1]]}),
        ("axis 1", {"indices": np.array([[0, 0], [0, 3], [2, 2**64 - 1]], np.uint64)}),
        ("shape \\(3, 2\\)", {"indices": [[0, 0]]}),
        ("shape \\(3, 2\\)", {"indices": [0, 0, 0]}),
        ("shape \\(3, 2\\)", {"indices": [[0], [0], [1]]}),
        ("rank 1", {"values": [[1], [2], [3]]}),
        ("shape \\(2, 2\\)", {"values": [1, 2]}),
        ("dense_shape", {"dense_shape": [4]}),
        ("dense_shape", {"dense_shape": []}),
        ("dense_shape", {"dense_shape": [4, -1]}),
        ("dense_shape", {"dense_shape": [1] * 33}),
        ("memory", {"dense_shape": [10**12, 5]}),
        ("memory", {"dense_shape": [2**63 - 1, 5]}),
        ("memory", {"dense_shape": np.array([2**64 - 1, 5], np.uint64)}),
    ],
)
def test_bad_sparse(match, change):
    refused(match, SPARSE._replace(**change))


def test_sparse_that_overflows():
    refused("memory", SparseIds([], [], [2**32, 2**32, 2**32, 1]))
    refused("memory", SparseIds([], [], [0, 2**62, 2**62, 1]))
    refused("memory", np.zeros((10**12, 0), np.int8))
    for name in ("indices", "values", "dense_shape"):
        wrong = SPARSE._replace(**{name: np.asarray(getattr(SPARSE, name), np.float64)})
        refused("integer", wrong, error=IdTypeError)
    large = np.array([[0, 0], [0, 2**64 - 3]], np.uint64)
    refused("axis 1", SparseIds(large, [1, 2], np.array([1, 2**64 - 1], np.uint64)))


def test_ragged():
    expected = [[1, 2], [], [3], []]
    check(as_bags(RAGGED), expected)
    check(as_bags(SimpleNamespace(**RAGGED._asdict())), expected)
    check(as_bags(RAGGED, weights=RAGGED._replace(values=[1, 2, 4])), expected, [1, 2, 4])
    check(as_bags(RAGGED, weights=[1, 2, 4]), expected, [1, 2, 4])
    check(as_bags(RaggedIds([], [0])), [])
    refused("end with the number of values, 3, got 2", RaggedIds([1, 2, 3], [0, 2]))
    refused("begin with 0", RaggedIds([1, 2, 3], []))
    refused("row_splits\\[0\\] = 1", RaggedIds([1, 2, 3], [1, 3]))
    refused("never fall", RaggedIds([1, 2, 3], [0, 2, 1, 3]))
    refused("row_splits", RaggedIds([1, 2, 3], [0.0, 3.0]), error=IdTypeError)
    refused("bags within bags", RaggedIds(RAGGED, [0, 4]))


@pytest.mark.parametrize("ids", [SPARSE, RAGGED, [[1, 2], [], [3], []], [[1, 2], [3, 4]]])
def test_weights_of_another_form(ids):
    others = [SPARSE, RAGGED, [[1.0, 2.0], [], [3.0], []], [[1.0, 2.0], [3.0, 4.0]]]
    for weights in others:
        if type(weights) is type(ids) and weights == ids:
            continue
        refused("weights", ids, weights=weights)


def test_weights_at_other_places():
    refused("other places", SPARSE, weights=SPARSE._replace(indices=[[0, 0], [1, 3], [2, 1]]))
    refused("other places", SPARSE, weights=SPARSE._replace(dense_shape=[5, 5]))
    refused("other places", SPARSE, weights=SPARSE._replace(dense_shape=[4, 6]))
    refused("other places", RAGGED, weights=RAGGED._replace(row_splits=[0, 1, 2, 3, 3]))
    refused("other places", [[1, 2], [3]], weights=[[1], [2, 3]])
    refused("shape of the ids", [[1, 2], [3]], weights=[[1, 2], [3, 4, 5]])
    refused("shape of the ids", np.zeros((2, 3), int), weights=np.zeros((3, 2)))
    refused("shape of the ids", np.zeros((2, 3), int), weights=np.zeros((1, 2, 3)))


@pytest.mark.parametrize(
    ("weights", "dtype"),
    [
        (np.array([0.5, np.nan, np.inf]), np.float64),
        (np.array([0.5, 1, 2], np.float32)[::-1], np.float32),
        (np.array([0.5, 1, 2], ">f8"), np.float64),
        (np.array([0.5, 1, 2], np.float16), np.float32),
        (np.array([0.5, 1, 2], ml_dtypes.bfloat16), np.float32),
        (np.array([0.5, 1, 2], ml_dtypes.float8_e5m2), np.float32),
        (np.array([3, -1, 2], np.int8), np.float32),
        (np.array([3, 1, 2], np.uint64), np.float64),
        ([1, 2.5, -3], np.float64),
    ],
)
def test_dtypes_of_weights(weights, dtype):
    bags = as_bags([1, 2, 3], [0], weights)
    assert bags.weights.dtype == dtype
    np.testing.assert_array_equal(bags.weights, np.asarray(weights).astype(dtype))


@pytest.mark.parametrize(
    "weights",
    [["a", "b", "c"], [1j, 2, 3], [None, 1, 2], [True, False, True], object(), 7.0, "abc"],
)
def test_weights_that_are_no_numbers(weights):
    refused("weights", [1, 2, 3], [0], weights)
    refused("weights", SPARSE, weights=weights)
    refused("expected", [[1, 2, 3]], weights=[weights])


def test_masked_arrays():
    masked = np.ma.masked_array([1, 2, 3], [0, 1, 0])
    refused("masked", [1, 2, 3], [0], masked)
    refused("masked", masked, [0], error=IdTypeError)
    refused("masked", [1, 2, 3], masked, error=IdTypeError)


NUMBERS = st.one_of(
    st.integers(-3, 6), st.sampled_from([2**63 - 1, -(2**63), 2**64 - 1, 10**20, 1.5, None, "a"])
)
NESTS = st.recursive(NUMBERS, lambda inner: st.lists(inner, max_size=4), max_leaves=10)
ARRAYS = st.tuples(st.lists(st.integers(0, 6), max_size=6), st.sampled_from([*INTEGERS, "float32"]))
PARTS = st.one_of(
    NESTS,
    st.lists(st.integers(0, 4), max_size=5).map(sorted),
    st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), max_size=4).map(sorted),
    ARRAYS.map(lambda drawn: np.array(*drawn)),
)


@given(data=st.data())
@settings(deadline=None, max_examples=300)
def test_anything(data):
    """What is no bags is an error of shardwise's; what are bags is safe to read."""

    def draw():
        made = data.draw(st.sampled_from(["part", "sparse", "ragged"]))
        if made == "sparse":
            return SparseIds(data.draw(PARTS), data.draw(PARTS), data.draw(PARTS))
        return RaggedIds(data.draw(PARTS), data.draw(PARTS)) if made == "ragged" else draw_part()

    def draw_part():
        return data.draw(PARTS)

    offsets = data.draw(st.one_of(st.none(), PARTS))
    weights = data.draw(st.booleans()) and draw()
    try:
        bags = as_bags(
            draw(),
            offsets,
            None if weights is False else weights,
            include_last_offset=data.draw(st.booleans()),
        )
    except (BagError, IdTypeError):
        return
    found = [bags.values[a:b].tolist() for a, b in itertools.pairwise(bags.offsets)]
    check(bags, found, None if bags.weights is None else bags.weights.tolist(), bags.lead)
    assert bags.weights is None or len(bags.weights) == len(bags.values)
    assert np.prod(bags.lead) == len(found)


def test_empty_weights_for_ids():
    refused("shape of the ids", SPARSE, weights=SparseIds([], [], [4, 5]))
    empty = SparseIds([], [], [2, 5])
    check(as_bags(empty, weights=empty), [[], []], [])
    check(as_bags(empty, weights=empty._replace(indices=np.zeros((0, 2), int))), [[], []], [])


def scipy_like(name, **parts):
    return SimpleNamespace(format=name, shape=(4, 5), **parts)


def test_scipy():
    expected = [[1, 2], [], [3], []]
    data, rows, columns = np.array([1, 2, 3]), np.array([0, 0, 2]), np.array([0, 3, 1])
    splits = np.array([0, 2, 2, 3, 3])
    coo = scipy_like("coo", data=data, row=rows, col=columns)
    csr = scipy_like("csr", data=data, indptr=splits, indices=columns)
    roomy = scipy_like("csr", data=np.arange(1, 6), indptr=splits, indices=np.arange(5))
    check(as_bags(coo, weights=coo), expected, [1, 2, 3])
    check(as_bags(csr, weights=csr), expected, [1, 2, 3])
    check(as_bags(roomy), expected)
    refused("other places", csr, weights=scipy_like(
        "csr", data=data, indptr=splits, indices=columns[::-1]))  # fmt: skip
    refused("form of the ids", csr, weights=coo)
    refused("row-major", scipy_like("coo", data=data, row=rows[::-1], col=columns))
    refused("indptr\\[1\\] = 9", scipy_like("csr", data=data, indptr=[0, 9], indices=columns))
    refused("tocsr", scipy_like("csc", data=data, indptr=splits, indices=columns))


def test_scipys_own():
    sparse = pytest.importorskip("scipy.sparse")
    dense = np.array([[1, 0, 2], [0, 0, 0], [0, 3, 0]])
    for make in (sparse.csr_array, sparse.coo_array, sparse.csr_matrix):
        check(as_bags(make(dense), weights=make(dense / 2)), [[1, 2], [], [3]], [0.5, 1, 1.5])
    refused("tocsr", sparse.csc_array(dense))


@pytest.mark.filterwarnings("ignore:Sparse")
def test_torchs_tensors():
    torch = pytest.importorskip("torch")
    dense = torch.tensor([[1, 0, 2], [0, 0, 0], [0, 3, 0]])
    expected, weights = [[1, 2], [], [3]], [0.5, 1, 1.5]
    for ids in (dense.to_sparse_coo(), dense.to_sparse_csr()):
        halves = (dense / 2).to_sparse(layout=ids.layout)
        check(as_bags(ids, weights=halves), expected, weights)
    check(as_bags(dense, weights=dense.bfloat16()), dense.tolist(), [1, 0, 2, 0, 0, 0, 0, 3, 0])
    check(as_bags(dense[0], torch.tensor([0, 1])), [[1], [0, 2]])
    refused("sparse_csc", dense.to_sparse_csc())
    refused("detach", dense[0], [0], torch.ones(3, requires_grad=True))
    twice = torch.sparse_coo_tensor([[0, 0], [1, 1]], [5, 5], (1, 2))
    check(as_bags(twice), [[5, 5]])
    back = torch.sparse_coo_tensor([[1, 0], [1, 1]], [5, 5], (2, 2))
    refused("row-major", back)
    refused("CPU", torch.sparse_coo_tensor(size=(2, 2), device="meta"))


def test_no_library_is_imported():
    before = set(sys.modules)
    as_bags(SPARSE, weights=SPARSE)
    as_bags(RAGGED)
    assert not {"torch", "scipy", "tensorflow"} & (set(sys.modules) - before)
