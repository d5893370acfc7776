"""
The native core of shardwise: private, and only as stable as the Python above it.
"""

from collections.abc import Sequence
from typing import Annotated, Any, overload

import numpy
import numpy.typing
from numpy.typing import NDArray


def set_leak_warnings(on: bool) -> None:
    """
    Whether it is told at the end of Python what was not let go of: for tests.
    """

class Partition:
    """How ids fall on shards."""

    @staticmethod
    def mod(num_rows: int, num_shards: int) -> Partition: ...

    @staticmethod
    def div(num_rows: int, num_shards: int) -> Partition: ...

    @staticmethod
    def ranges(boundaries: Sequence[int]) -> Partition: ...

    @property
    def num_rows(self) -> int: ...

    @property
    def num_shards(self) -> int: ...

    def shard_size(self, shard: int) -> int: ...

    def locate(self, ids: Annotated[NDArray[numpy.int64], dict(shape=(None,), order='C', device='cpu', writable=False)], shards: Annotated[NDArray[numpy.int64], dict(shape=(None,), order='C', device='cpu')], rows: Annotated[NDArray[numpy.int64], dict(shape=(None,), order='C', device='cpu')]) -> int:
        """
        Fills `shards` and `rows`; returns the position of the first id outside the table, or their number.
        """

class OutOfRangeId(IndexError):
    pass

class PoolTask:
    """Bags of a table that wait to be combined."""

def splits(offsets: numpy.typing.NDArray[numpy.int64], count: int, closed: bool) -> numpy.typing.NDArray[numpy.int64] | None:
    """
    Checked offsets of bags, a copy; with `count` behind them if they are not closed.
    """

def run_pools(tasks: Sequence[PoolTask]) -> None:
    """Combines the bags of all of them, in one go."""

class Rows:
    """The rows of a table where they lie."""

    def __init__(self, partition: Partition, shards: list[numpy.typing.NDArray[Any]], dtype: numpy.dtype[Any], tail: Sequence[int], row_bytes: int, format: str, mapped: bool) -> None: ...

    def lookup(self, ids: object, /) -> numpy.typing.NDArray[Any] | None:
        """Rows of a contiguous array of integers; None for any other object."""

    def lookup_into(self, ids: numpy.typing.NDArray[Any], out: numpy.typing.NDArray[Any] | None, policy: str, default_row: int, max_norm: float, dtype: numpy.dtype[Any] | None, format: str) -> numpy.typing.NDArray[Any]: ...

    def bags(self, ids: numpy.typing.NDArray[Any], offsets: numpy.typing.NDArray[numpy.int64], weights: numpy.typing.NDArray[Any] | None, combiner: str, policy: str, stand_in: int, max_norm: float, padding: int | None, empty_row: int | None, skip_negative: bool, skip_weightless: bool, out: numpy.typing.NDArray[Any], format: str) -> PoolTask:
        """
        Bags of rows, each to be combined to a row of `out`: `offsets` has one entry more than there are bags.
        """

    def prefetch(self, ids: numpy.typing.NDArray[Any]) -> None:
        """Starts reading the rows' pages on another thread."""

    def write(self, ids: numpy.typing.NDArray[numpy.int64], rows: numpy.typing.NDArray[Any]) -> None:
        """Writes rows to the arrays, which must be writable."""

    def write_files(self, ids: numpy.typing.NDArray[numpy.int64], rows: numpy.typing.NDArray[Any], files: list[tuple[int, int]]) -> None:
        """
        Writes rows to the files: for each shard a descriptor and the byte of its first row.
        """

@overload
def initialize(distribution: str, a: float, b: float, seed: int, ids: Annotated[NDArray[numpy.int64], dict(shape=(None,), order='C', device='cpu', writable=False)], out: Annotated[NDArray[numpy.float32], dict(shape=(None, None), order='C', device='cpu')]) -> None: ...

@overload
def initialize(distribution: str, a: float, b: float, seed: int, ids: Annotated[NDArray[numpy.int64], dict(shape=(None,), order='C', device='cpu', writable=False)], out: Annotated[NDArray[numpy.float64], dict(shape=(None, None), order='C', device='cpu')]) -> None:
    """Fills rows with values that depend on the seed, the id and the column."""

def empty(shape: Sequence[int], dtype: numpy.dtype[Any]) -> numpy.typing.NDArray[Any]:
    """An uninitialized array; a large one lies in 2 MB pages."""

def zeros(shape: Sequence[int], dtype: numpy.dtype[Any]) -> numpy.typing.NDArray[Any]:
    """
    An array of zeros; a large one lies in 2 MB pages, which are made when they are touched.
    """

def small_floats(array: object) -> tuple[numpy.typing.NDArray[Any], str]:
    """
    What DLPack offers as bfloat16 or float8: its bits as a read-only array of integers, and ml_dtypes' name.
    """

def cached_bytes() -> int:
    """Bytes of freed result blocks that are kept for the next results."""

def empty_cache() -> int:
    """Gives the kept blocks back to the system; returns their bytes."""

def huge_page_bytes(address: int, bytes: int) -> int:
    """How many of these bytes lie in large pages at present."""

def num_threads() -> int:
    """How many threads a kernel may use."""

def set_num_threads(count: int) -> None: ...

def isa() -> str:
    """The instruction level that kernels run at."""

def isa_levels() -> list[str]:
    """The instruction levels that this machine has."""

class MappedFile:
    """Reads a few bytes of a mapped file without touching the map."""

    def __init__(self, descriptor: int, data: Annotated[NDArray[numpy.uint8], dict(shape=(None,), order='C', device='cpu', writable=False)]) -> None:
        """
        Of a descriptor, of which it keeps a copy, and all bytes of the file as they are mapped.
        """

    def __reduce__(self) -> tuple[type[None], tuple[()]]:
        """A pickle or a deep copy has None instead: its arrays are its own."""

def hash64(data: bytes) -> int:
    """XXH64 with seed 0."""

def token_map_slots(count: int) -> int:
    """The number of slots for `count` tokens."""

def unjoin_tokens(joined: bytes, data: Annotated[NDArray[numpy.uint8], dict(shape=(None,), order='C', device='cpu')], offsets: Annotated[NDArray[numpy.int64], dict(shape=(None,), order='C', device='cpu')]) -> None:
    """
    Cuts tokens with one NUL between neighbours into `data` and `offsets`; ValueError if a token has a NUL.
    """

def build_token_map(data: Annotated[NDArray[numpy.uint8], dict(shape=(None,), order='C', device='cpu', writable=False)], offsets: Annotated[NDArray[numpy.int64], dict(shape=(None,), order='C', device='cpu', writable=False)], slots: Annotated[NDArray[numpy.uint64], dict(shape=(None,), order='C', device='cpu')], first_of: Annotated[NDArray[numpy.int64], dict(shape=(None,), order='C', device='cpu')]) -> int:
    """
    Fills `slots`, and `first_of` with the first id of each token's bytes; returns the number of repetitions.
    """

def validate_token_map(data: Annotated[NDArray[numpy.uint8], dict(shape=(None,), order='C', device='cpu', writable=False)], offsets: Annotated[NDArray[numpy.int64], dict(shape=(None,), order='C', device='cpu', writable=False)], slots: Annotated[NDArray[numpy.uint64], dict(shape=(None,), order='C', device='cpu', writable=False)]) -> None:
    """
    ValueError if the arrays cannot be a map; reads the ends of `offsets` and nothing else.
    """

@overload
def find_tokens(data: Annotated[NDArray[numpy.uint8], dict(shape=(None,), order='C', device='cpu', writable=False)], offsets: Annotated[NDArray[numpy.int64], dict(shape=(None,), order='C', device='cpu', writable=False)], slots: Annotated[NDArray[numpy.uint64], dict(shape=(None,), order='C', device='cpu', writable=False)], wanted: Annotated[NDArray[numpy.uint8], dict(shape=(None,), order='C', device='cpu', writable=False)], wanted_offsets: Annotated[NDArray[numpy.int64], dict(shape=(None,), order='C', device='cpu', writable=False)], ids: Annotated[NDArray[numpy.int64], dict(shape=(None,), order='C', device='cpu')], missing: int = -1, file: MappedFile | None = None) -> int: ...

@overload
def find_tokens(data: Annotated[NDArray[numpy.uint8], dict(shape=(None,), order='C', device='cpu', writable=False)], offsets: Annotated[NDArray[numpy.int64], dict(shape=(None,), order='C', device='cpu', writable=False)], slots: Annotated[NDArray[numpy.uint64], dict(shape=(None,), order='C', device='cpu', writable=False)], wanted: Annotated[NDArray[numpy.uint8], dict(shape=(None,), order='C', device='cpu', writable=False)], wanted_offsets: Annotated[NDArray[numpy.int32], dict(shape=(None,), order='C', device='cpu', writable=False)], ids: Annotated[NDArray[numpy.int64], dict(shape=(None,), order='C', device='cpu')], missing: int = -1, file: MappedFile | None = None) -> int:
    """
    Fills `ids` with the id of each wanted token, `missing` where there is none, and returns how many are missing; ValueError if the map is damaged, IndexError if `wanted_offsets` are. With the `file` that the map's arrays are mapped from they are not touched, but read piece by piece.
    """

def find_objects(data: Annotated[NDArray[numpy.uint8], dict(shape=(None,), order='C', device='cpu', writable=False)], offsets: Annotated[NDArray[numpy.int64], dict(shape=(None,), order='C', device='cpu', writable=False)], slots: Annotated[NDArray[numpy.uint64], dict(shape=(None,), order='C', device='cpu', writable=False)], wanted: object, ids: Annotated[NDArray[numpy.int64], dict(shape=(None,), order='C', device='cpu')], missing: int = -1, file: MappedFile | None = None) -> int:
    """
    find_tokens for a list or tuple of str and bytes. -1, with `ids` half filled, where one of them is no token.
    """

class TokenCounts:
    """How often each token was seen."""

    def __init__(self) -> None: ...

    def count_text(self, data: Annotated[NDArray[numpy.uint8], dict(shape=(None,), order='C', device='cpu', writable=False)], last: bool) -> int:
        """
        Counts the tokens between ASCII white space; returns how many bytes were used: all of the `last` block, else those up to the last white space.
        """

    def count_tokens(self, data: Annotated[NDArray[numpy.uint8], dict(shape=(None,), order='C', device='cpu', writable=False)], offsets: Annotated[NDArray[numpy.int64], dict(shape=(None,), order='C', device='cpu', writable=False)]) -> None:
        """Counts each token once."""

    def add(self, data: Annotated[NDArray[numpy.uint8], dict(shape=(None,), order='C', device='cpu', writable=False)], offsets: Annotated[NDArray[numpy.int64], dict(shape=(None,), order='C', device='cpu', writable=False)], counts: Annotated[NDArray[numpy.int64], dict(shape=(None,), order='C', device='cpu', writable=False)]) -> None:
        """Counts each token as often as `counts` says."""

    def __len__(self) -> int: ...

    @property
    def total(self) -> int:
        """How many tokens were counted."""

    def tokens(self, min_count: int) -> tuple[Annotated[NDArray[numpy.uint8], dict(shape=(None,))], Annotated[NDArray[numpy.int64], dict(shape=(None,))], Annotated[NDArray[numpy.int64], dict(shape=(None,))]]:
        """
        (data, offsets, counts) of the tokens with at least that many, in the order in which they were first seen.
        """

    def find(self, data: Annotated[NDArray[numpy.uint8], dict(shape=(None,), order='C', device='cpu', writable=False)], offsets: Annotated[NDArray[numpy.int64], dict(shape=(None,), order='C', device='cpu', writable=False)], counts: Annotated[NDArray[numpy.int64], dict(shape=(None,), order='C', device='cpu')]) -> None:
        """Fills `counts` with those of each token, 0 where it was not seen."""

def order_tokens(data: Annotated[NDArray[numpy.uint8], dict(shape=(None,), order='C', device='cpu', writable=False)], offsets: Annotated[NDArray[numpy.int64], dict(shape=(None,), order='C', device='cpu', writable=False)], counts: Annotated[NDArray[numpy.int64], dict(shape=(None,), order='C', device='cpu', writable=False)], ties: str) -> Annotated[NDArray[numpy.int64], dict(shape=(None,))]:
    """
    The numbers of the tokens, the most frequent first; of equals the `first`, or by their bytes `ascending` or `descending`.
    """

def take_tokens(data: Annotated[NDArray[numpy.uint8], dict(shape=(None,), order='C', device='cpu', writable=False)], offsets: Annotated[NDArray[numpy.int64], dict(shape=(None,), order='C', device='cpu', writable=False)], counts: Annotated[NDArray[numpy.int64], dict(shape=(None,), order='C', device='cpu', writable=False)], ids: Annotated[NDArray[numpy.int64], dict(shape=(None,), order='C', device='cpu', writable=False)]) -> tuple[Annotated[NDArray[numpy.uint8], dict(shape=(None,))], Annotated[NDArray[numpy.int64], dict(shape=(None,))], Annotated[NDArray[numpy.int64], dict(shape=(None,))]]:
    """(data, offsets, counts) of some of the tokens, in the order of `ids`."""

def parse_float(text: bytes) -> float:
    """The float32 nearest to a decimal number; ValueError for anything else."""

def text_end(data: Annotated[NDArray[numpy.uint8], dict(shape=(None,), order='C', device='cpu', writable=False)]) -> int:
    """The size of a text without white space after its last row."""

def index_text(data: Annotated[NDArray[numpy.uint8], dict(shape=(None,), order='C', device='cpu', writable=False)], begin: int, end: int, dim: int, max_rows: int) -> tuple[Annotated[NDArray[numpy.int64], dict(shape=(None,))], Annotated[NDArray[numpy.int64], dict(shape=(None,))], int]:
    """
    Finds the rows whose lines start in [begin, end): token_starts, value_starts, and where to go on.
    """

def index_binary(data: Annotated[NDArray[numpy.uint8], dict(shape=(None,), order='C', device='cpu', writable=False)], begin: int, dim: int, max_rows: int, max_bytes: int, first_row: int) -> tuple[Annotated[NDArray[numpy.int64], dict(shape=(None,))], Annotated[NDArray[numpy.int64], dict(shape=(None,))], int]:
    """
    Finds rows of word2vec's binary form: token_starts, value_starts, and where to go on.
    """

def gather_tokens(data: Annotated[NDArray[numpy.uint8], dict(shape=(None,), order='C', device='cpu', writable=False)], token_starts: Annotated[NDArray[numpy.int64], dict(shape=(None,), order='C', device='cpu', writable=False)], value_starts: Annotated[NDArray[numpy.int64], dict(shape=(None,), order='C', device='cpu', writable=False)]) -> tuple[Annotated[NDArray[numpy.uint8], dict(shape=(None,))], Annotated[NDArray[numpy.int64], dict(shape=(None,))]]:
    """The indexed tokens end to end: their bytes and their offsets."""

def parse_rows(data: Annotated[NDArray[numpy.uint8], dict(shape=(None,), order='C', device='cpu', writable=False)], starts: Annotated[NDArray[numpy.int64], dict(shape=(None,), order='C', device='cpu', writable=False)], out: Annotated[NDArray[numpy.float32], dict(shape=(None, None), order='C', device='cpu')]) -> None:
    """Parses the values at each start into the rows of `out`."""

def copy_rows(data: Annotated[NDArray[numpy.uint8], dict(shape=(None,), order='C', device='cpu', writable=False)], starts: Annotated[NDArray[numpy.int64], dict(shape=(None,), order='C', device='cpu', writable=False)], out: Annotated[NDArray[numpy.float32], dict(shape=(None, None), order='C', device='cpu')]) -> None:
    """Copies the binary values at each start into the rows of `out`."""

def format_rows(rows: Annotated[NDArray[numpy.float32], dict(shape=(None, None), order='C', device='cpu', writable=False)], data: Annotated[NDArray[numpy.uint8], dict(shape=(None,), order='C', device='cpu', writable=False)], offsets: Annotated[NDArray[numpy.int64], dict(shape=(None,), order='C', device='cpu', writable=False)]) -> Annotated[NDArray[numpy.uint8], dict(shape=(None,))]:
    """Rows as lines of text: a token, and before each value a space."""

def pack_rows(rows: Annotated[NDArray[numpy.float32], dict(shape=(None, None), order='C', device='cpu', writable=False)], data: Annotated[NDArray[numpy.uint8], dict(shape=(None,), order='C', device='cpu', writable=False)], offsets: Annotated[NDArray[numpy.int64], dict(shape=(None,), order='C', device='cpu', writable=False)]) -> Annotated[NDArray[numpy.uint8], dict(shape=(None,))]:
    """Rows in word2vec's binary form, with a newline after each."""

def count_subwords(data: Annotated[NDArray[numpy.uint8], dict(shape=(None,), order='C', device='cpu', writable=False)], offsets: Annotated[NDArray[numpy.int64], dict(shape=(None,), order='C', device='cpu', writable=False)], min_chars: int, max_chars: int, cut_end: bool, counts: Annotated[NDArray[numpy.int64], dict(shape=(None,), order='C', device='cpu')]) -> None:
    """Fills `counts` with the number of fastText's n-grams of each token."""

def subword_buckets(data: Annotated[NDArray[numpy.uint8], dict(shape=(None,), order='C', device='cpu', writable=False)], offsets: Annotated[NDArray[numpy.int64], dict(shape=(None,), order='C', device='cpu', writable=False)], min_chars: int, max_chars: int, buckets: int, cut_end: bool, most: int) -> tuple[Annotated[NDArray[numpy.int64], dict(shape=(None,))], Annotated[NDArray[numpy.int64], dict(shape=(None,))]]:
    """
    The buckets of fastText's n-grams of all tokens, and where each token's begin; ValueError if they are more than `most`.
    """

def hash_buckets(data: Annotated[NDArray[numpy.uint8], dict(shape=(None,), order='C', device='cpu', writable=False)], offsets: Annotated[NDArray[numpy.int64], dict(shape=(None,), order='C', device='cpu', writable=False)], count: int, key: tuple[int, int] | None, buckets: Annotated[NDArray[numpy.int64], dict(shape=(None,), order='C', device='cpu')]) -> None:
    """
    Fills `buckets` with the hash of each token modulo `count`: Fingerprint64, or SipHash-2-4 with a key.
    """

@overload
def quantize_rows(rows: Annotated[NDArray[numpy.float32], dict(shape=(None, None), device='cpu', writable=False)], format: str, out: Annotated[NDArray[numpy.uint8], dict(shape=(None, None), order='C', device='cpu')]) -> int: ...

@overload
def quantize_rows(rows: Annotated[NDArray[numpy.uint16], dict(shape=(None, None), device='cpu', writable=False)], format: str, out: Annotated[NDArray[numpy.uint8], dict(shape=(None, None), order='C', device='cpu')]) -> int:
    """
    Rows to int8 or int4; uint16 holds the bits of float16. Returns the first row that the format cannot hold, or their number.
    """

def dequantize_rows(packed: Annotated[NDArray[numpy.uint8], dict(shape=(None, None), device='cpu', writable=False)], format: str, out: Annotated[NDArray[numpy.float32], dict(shape=(None, None), order='C', device='cpu')]) -> None:
    """The float32 values of int8 or int4 rows."""

class RefusedId(ValueError):
    pass

class Routes:
    """Which process holds the row of an id."""

    def __init__(self, partition: Partition, cuts: Sequence[int]) -> None: ...

    def keep_copies(self, rank: int, places: Sequence[int]) -> None:
        """The rows of these places lie on every rank, of which this is one."""

    def rows(self, ids: numpy.typing.NDArray[Any], *, policy: str, stand_in: int, padding: int | None, skip_negative: bool, frozen: numpy.typing.NDArray[numpy.uint8] | None, frozen_range: tuple[int, int], out: numpy.typing.NDArray[Any], counts: numpy.typing.NDArray[numpy.uint64], places: numpy.typing.NDArray[numpy.int64]) -> None:
        """Each row once, grouped by rank; `places` says which of them an id is."""

    def bags(self, ids: numpy.typing.NDArray[Any], *, policy: str, stand_in: int, padding: int | None, skip_negative: bool, frozen: numpy.typing.NDArray[numpy.uint8] | None, frozen_range: tuple[int, int], offsets: numpy.typing.NDArray[numpy.int64], weights: numpy.typing.NDArray[Any] | None, skip_weightless: bool, square_root: bool, out: numpy.typing.NDArray[Any], weights_out: numpy.typing.NDArray[Any] | None, counts: numpy.typing.NDArray[numpy.uint64], lengths: numpy.typing.NDArray[numpy.uint32], bags: numpy.typing.NDArray[numpy.int64], piece_counts: numpy.typing.NDArray[numpy.uint64], order: numpy.typing.NDArray[numpy.int64], ends: numpy.typing.NDArray[numpy.int64], divisors: numpy.typing.NDArray[numpy.float64] | None) -> None:
        """
        The ids of each bag, grouped by the rank that they go to: `Pieces` in core/route.h says more.
        """

class RefusedUpdate(ValueError):
    pass

class Rule:
    """How a gradient changes a row: an optimizer's numbers for one step."""

    def __init__(self, *, kind: str, learning_rate: float, weight_decay: float = 0.0, shrink: float = 1.0, clip_norm: float = float('inf'), eps: float = 0.0, momentum: float = 0.0, nesterov: bool = False, beta1: float = 0.0, beta2: float = 0.0, eps_last: bool = False, corrected: bool = False, step: int = 1, l1: float = 0.0, l2: float = 0.0, l2_shrinkage: float = 0.0) -> None: ...

class Updater:
    """The rows of a table and an optimizer's state, to be written to."""

    def __init__(self, partition: Partition, shards: list[numpy.typing.NDArray[Any]], format: str, row_bytes: int, states: list[list[numpy.typing.NDArray[Any]] | None], mapped: bool) -> None: ...

    def update(self, *, ids: numpy.typing.NDArray[Any], offsets: numpy.typing.NDArray[numpy.int64] | None, weights: numpy.typing.NDArray[Any] | None, gradients: numpy.typing.NDArray[Any], rule: Rule, combiner: str, policy: str, stand_in: int, padding: int | None, skip_negative: bool, skip_weightless: bool, check_finite: bool, frozen: numpy.typing.NDArray[numpy.uint8] | None, frozen_range: tuple[int, int], seed: int | None, changed: numpy.typing.NDArray[numpy.uint8] | None = None) -> None:
        """
        Applies a gradient for each id, or with `offsets` one for each bag; all or nothing is changed where ids or gradients are refused. The rows' bits in `changed` are set.
        """

def counted(counter: numpy.typing.NDArray[numpy.int64]) -> int:
    """The number in `counter`, which may lie in a mapped file."""

def count_one(counter: numpy.typing.NDArray[numpy.int64]) -> None:
    """Adds one to it."""

def mark_rows(changed: numpy.typing.NDArray[numpy.uint8], ids: numpy.typing.NDArray[numpy.int64], num_rows: int) -> None:
    """Sets the bits of ids; those outside the rows are passed over."""

def find_nearest(queries: Annotated[NDArray[numpy.float32], dict(shape=(None, None), order='C', device='cpu', writable=False)], rows: Annotated[NDArray[numpy.float32], dict(shape=(None, None), device='cpu', writable=False)], factors: Annotated[NDArray[numpy.float32], dict(shape=(None,), order='C', device='cpu', writable=False)], first_id: int, ids: Annotated[NDArray[numpy.int64], dict(shape=(None, None), order='C', device='cpu')], scores: Annotated[NDArray[numpy.float32], dict(shape=(None, None), order='C', device='cpu')], floats: bool = False) -> bool:
    """
    Put the rows nearest to each query among its best so far: heaps, the worst in front. False where products of bytes were of little use; `floats` spares them.
    """

def multiplies_bytes() -> bool:
    """Whether products of bytes tell which rows may be among the nearest."""

def encode_text(data: Annotated[NDArray[numpy.uint8], dict(shape=(None,), order='C', device='cpu', writable=False)], offsets: Annotated[NDArray[numpy.int64], dict(shape=(None,), order='C', device='cpu', writable=False)], slots: Annotated[NDArray[numpy.uint64], dict(shape=(None,), order='C', device='cpu', writable=False)], text: Annotated[NDArray[numpy.uint8], dict(shape=(None,), order='C', device='cpu', writable=False)], last: bool, ended: bool) -> tuple[int, Annotated[NDArray[numpy.int32], dict(shape=(None,))]]:
    """
    (bytes used, ids of the words, -1 for each end of a line that has any); words that the map lacks are left out.
    """

class SkipGram:
    """A training: a corpus of ids, and the rows that it changes."""

    def __init__(self, *, corpus: Annotated[NDArray[numpy.int32], dict(shape=(None,), order='C', device='cpu', writable=False)], inputs: Annotated[NDArray[numpy.float32], dict(shape=(None, None), order='C', device='cpu')], outputs: Annotated[NDArray[numpy.float32], dict(shape=(None, None), order='C', device='cpu')], counts: Annotated[NDArray[numpy.int64], dict(shape=(None,), order='C', device='cpu', writable=False)], keep: Annotated[NDArray[numpy.uint32], dict(shape=(None,), order='C', device='cpu', writable=False)] | None, parts: Annotated[NDArray[numpy.int64], dict(shape=(None,), order='C', device='cpu', writable=False)] | None, part_offsets: Annotated[NDArray[numpy.int64], dict(shape=(None,), order='C', device='cpu', writable=False)] | None, read_ahead: bool, cbow: bool, window: int, negative: int, negative_power: float, shared_by: int, epochs: int, rate: float, final_rate: float, seed: int) -> None: ...

    @property
    def blocks(self) -> int:
        """How many blocks an epoch has."""

    def train(self, begin: int, end: int, threads: int) -> tuple[int, int, float, int]:
        """
        Trains blocks, counted over all epochs; (tokens read, centre words trained, loss of a sample, pairs of the sample).
        """
