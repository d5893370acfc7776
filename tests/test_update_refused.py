"""Updates that are refused, and change nothing."""

import copy
import pickle

import ml_dtypes
import numpy as np
import pytest
from plain_updates import DTYPES, assert_same

import shardwise
from shardwise import BagError, IdOutOfRangeError, IdTypeError, OptionError, Table, TableError
from shardwise.optimizers import SGD, Adagrad, Adam, AdamW, Ftrl, Optimizer, RMSprop


@pytest.mark.parametrize(
    ("ids", "gradients", "error", "message"),
    [
        ([0, 5], np.ones((2, 2)), IdOutOfRangeError, r"ids\[1\] = 5"),
        ([0, -1], np.ones((2, 2)), IdOutOfRangeError, r"ids\[1\] = -1"),
        (np.array([0, 2**64 - 1], np.uint64), np.ones((2, 2)), IdOutOfRangeError, "18446744073709"),
        ([0.0], np.ones((1, 2)), IdTypeError, "float64"),
        ([0, 1], np.ones((2, 3)), TableError, r"shape \(2, 2\), got \(2, 3\)"),
        ([0, 1], np.ones(2), TableError, r"got \(2,\)"),
        ([0, 1], 1.0, TableError, r"got \(\)"),
        ([0, 1], np.ones((2, 2), int), TableError, "floating-point"),
        ([0, 1], [[1, 2], [3]], TableError, "array"),
        ([0, 1], np.ones((2, 2), complex), TableError, "floating-point"),
        ([0, 1], np.array([["a", "b"]] * 2), TableError, "floating-point"),
        ([0, 1], [[1.0, 2.0], [3.0, np.nan]], TableError, r"nan at gradients\[1, 1\]"),
        ([0, 1], [[1.0, -np.inf], [3.0, np.nan]], TableError, r"-inf at gradients\[0, 1\]"),
    ],
)
def test_nothing_is_changed_by_what_is_refused(ids, gradients, error, message):
    rows = np.arange(10.0).reshape(5, 2)
    table = Table.from_array(rows.copy(), shards=2)
    table.update([0], [[1.0, 1.0]], Adagrad())
    before = table.lookup(np.arange(5)), copy.deepcopy(table.optimizer_state)
    with pytest.raises(error, match=message):
        table.update(ids, gradients, Adagrad())
    assert_same(table.lookup(np.arange(5)), before[0])
    assert table.optimizer_step == 1
    for name, arrays in table.optimizer_state.items():
        for one, other in zip(arrays, before[1][name], strict=True):
            assert_same(one, other)


@pytest.mark.parametrize("optimizer", [Adam(), Adam(corrected=True), SGD(momentum=0.9)])
@pytest.mark.parametrize("known", [None, SGD(), Adam()])
@pytest.mark.parametrize(("ids", "gradient"), [([0, 5], 1.0), ([0, 1], np.nan)])
def test_an_update_that_is_refused_makes_and_forgets_no_state(optimizer, known, ids, gradient):
    table = Table.from_array(np.zeros((5, 2)), 2)
    for _ in range(3 if known else 0):
        table.update([0, 1], np.ones((2, 2)), known)
    before = pickle.dumps(table), table.describe()["optimizer"]
    with pytest.raises(shardwise.ShardwiseError):
        table.update(ids, np.full((2, 2), gradient), optimizer)
    with pytest.raises(shardwise.ShardwiseError):
        table.update_pool([ids], None, np.full((1, 2), gradient), optimizer, combiner="max")
    assert (pickle.dumps(table), table.describe()["optimizer"]) == before


def test_packed_rows_are_not_trained():
    for row_format in ("int8", "int4"):
        table = Table.from_array(np.ones((3, 4))).quantize(row_format)
        with pytest.raises(TableError, match=f"packed as {row_format}; train a table of floats"):
            table.update([0], np.ones((1, 4)), SGD())
        with pytest.raises(TableError, match=f"packed as {row_format}"):
            table.update_pool([[0]], None, np.ones((1, 4)), SGD())


def test_the_first_id_that_is_refused_is_told():
    table = Table.from_array(np.zeros((100, 1)))
    ids = np.arange(100_000) % 100
    ids[[70_000, 20_000, 99_999]] = 100
    with pytest.raises(IdOutOfRangeError, match=r"ids\[20000\] = 100"):
        table.update(ids, np.ones((100_000, 1)), SGD())
    with pytest.raises(IdOutOfRangeError, match=r"ids\[20000\] = 100"):
        table.update_pool(ids, np.arange(0, 100_000, 10), np.ones((10_000, 1)), SGD())
    assert not table.lookup(np.arange(100)).any()


def test_the_first_number_that_is_not_finite_is_told():
    for dtype in (np.float32, np.float64):
        table = Table.from_array(np.zeros((10, 33), dtype))
        gradients = np.ones((9000, 33), dtype)
        gradients[8000, 32] = gradients[8999, 1] = np.nan
        with pytest.raises(TableError, match=r"gradients\[8000, 32\]"):
            table.update(np.zeros(9000, int), gradients, SGD())
        assert not table.lookup(np.arange(10)).any()
    with pytest.raises(TableError, match=r"inf at gradients\[0, 0\]"):
        Table.from_array(np.zeros((1, 1), np.float32)).update([0], [[1e39]], SGD())


def test_what_is_not_finite_may_be_let_through():
    table = Table.from_array(np.zeros((2, 2)))
    table.update([0], [[1.0, np.nan]], SGD(1.0), nonfinite="propagate")
    assert_same(table.lookup([0, 1]), np.array([[-1.0, np.nan], [0, 0]]))


@pytest.mark.parametrize("bad", [{"weights": [1.0]}, {"weights": "x"}, {"include_last_offset": 1}])
def test_bags_that_are_none(bad):
    table = Table.from_array(np.zeros((5, 1)))
    with pytest.raises(BagError):
        table.update_pool(
            [0, 1], [1] if "include_last_offset" in bad else [0, 1], [[1.0]], SGD(), **bad
        )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"combiner": "median"}, "combiner"),
        ({"out_of_range": "ignore"}, "out_of_range"),
        ({"out_of_range": 5}, "out_of_range"),
        ({"padding_id": 1.5}, "padding_id"),
        ({"frozen": [0, 1]}, "frozen"),
        ({"frozen": np.ones(4, bool)}, r"bool of shape \(4,\)"),
        ({"frozen": slice(0, 4, 2)}, "step 1"),
        ({"frozen": "all"}, "frozen"),
        ({"frozen": slice("a", "b")}, "frozen"),
        ({"frozen": [[True], [True, False]]}, "frozen"),
        ({"nonfinite": "skip"}, "nonfinite"),
        ({"rounding_seed": "x"}, "rounding_seed"),
        ({"learning_rate": -1.0}, "learning_rate of SGD"),
        ({"learning_rate": "fast"}, "learning_rate of SGD"),
        ({"learning_rate": np.nan}, "learning_rate of SGD"),
    ],
)
def test_options_that_are_none(options, message):
    table = Table.from_array(np.zeros((5, 1)))
    with pytest.raises(OptionError, match=message):
        table.update_pool([[0, 1]], None, [[1.0]], SGD(), **options)
    assert table.optimizer_step == 0


@pytest.mark.parametrize("optimizer", [None, "adam", SGD, 0.1, Optimizer, Optimizer()])
def test_optimizers_that_are_none(optimizer):
    with pytest.raises(OptionError, match=r"shardwise\.optimizers"):
        Table.from_array(np.zeros((5, 1))).update([0], [[1.0]], optimizer)


@pytest.mark.parametrize(
    ("make", "options"),
    [
        (SGD, {"momentum": -1}),
        (SGD, {"learning_rate": 10**400}),
        (SGD, {"nesterov": True}),
        (SGD, {"clip_norm": -1}),
        (SGD, {"weight_decay": True}),
        (Adagrad, {"eps": None}),
        (RMSprop, {"alpha": 1}),
        (Adam, {"betas": (0.9, 1)}),
        (Adam, {"betas": 0.9}),
        (Adam, {"betas": (0.9,)}),
        (Adam, {"betas": np.zeros(2, complex)}),
        (Adam, {"betas": np.zeros(2, "M8[s]")}),
        (Adam, {"betas": np.ma.masked_array(np.zeros(2), mask=True)}),
        (AdamW, {"betas": np.broadcast_to(0.5, 1 << 46)}),
        (SGD, {"learning_rate": np.complex64(1)}),
        (Adam, {"corrected": True, "weight_decay": 0.1}),
        (AdamW, {"corrected": True, "eps": 0}),
        (Ftrl, {"learning_rate": 0}),
        (Ftrl, {"initial_accumulator_value": 0}),
        (Ftrl, {"l1": float("inf")}),
    ],
)
def test_numbers_that_an_optimizer_cannot_have(make, options):
    with pytest.raises(OptionError, match="expected"):
        make(**options)


@pytest.mark.parametrize("dtype", [np.int64, np.int8, np.complex64, ">f4", "S3", np.bool_])
def test_rows_that_cannot_be_trained(dtype):
    table = Table.from_array(np.zeros((5, 2), dtype))
    with pytest.raises(TableError, match="to train"):
        table.update([0], [[1.0, 1.0]], SGD())


def test_a_table_that_cannot_be_written_to():
    array = np.zeros((5, 2))
    array.flags.writeable = False
    with pytest.raises(TableError, match="read-only"):
        Table.from_array(array).update([0], [[1.0, 1.0]], SGD())


def test_gradients_may_be_the_rows_themselves():
    array = np.ones((4, 3), np.float32)
    table = Table.from_array(array, shards=2)
    table.update([0, 1, 2, 3], array, SGD(0.5))
    assert (array == 0.5).all()


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16, np.float32, np.float64, ">f8"])
def test_gradients_of_any_float(dtype):
    gradients = np.array([[1.5, -2.0], [0.25, 8.0]]).astype(dtype)
    for rows in DTYPES:
        table = Table.from_array(np.zeros((3, 2), rows))
        table.update([0, 2], gradients[:, ::-1], SGD(1.0))
        expected = np.array([[2.0, -1.5], [-8.0, -0.25]]).astype(rows)
        assert_same(table.lookup([0, 2]), expected)


def test_gradients_of_torch():
    torch = pytest.importorskip("torch")
    table = Table.from_array(np.zeros((3, 2), np.float32))
    for dtype in (torch.float32, torch.bfloat16, torch.float64):
        table.update(torch.tensor([0, 2]), torch.ones(2, 2, dtype=dtype), SGD(1.0))
    assert table.lookup([0, 1, 2])[:, 0].tolist() == [-3, 0, -3]
