import doctest
import importlib
import inspect
import pkgutil
import re
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

import shardwise
from shardwise import formats, initializers, optimizers, skipgram, store

# When one of these lines changes, programs of other people may: say so in the changelog.
API = """\
Aligned(vectors: ForwardRef('Vectors'), rotation: ForwardRef('Wide'), offset: ForwardRef('Wide'),
    shared: ForwardRef('int'), before: ForwardRef('float'), after: ForwardRef('float'))
AnalogyScores(sections: ForwardRef('tuple[AnalogySection, ...]'), total:
    ForwardRef('AnalogySection'), skipped: ForwardRef('int'))
AnalogySection(name: ForwardRef('str'), correct: ForwardRef('int'), questions: ForwardRef('int'),
    unknown: ForwardRef('int'))
AnalogySection.accuracy: float
BagError(ShardwiseError, ValueError)
Buckets(count: int, key: tuple[int, int] | None = None, first: int | None = None)
Buckets.ids(data: Bytes, offsets: Ids, num_tokens: int) -> Ids
Buckets.start(num_tokens: int) -> int
Converted(path: str, format: str, to: str, shape: tuple[int, ...], dtype: np.dtype[Any],
    row_format: str, partition: Partition | None, vocabulary: Vocabulary | None, duplicates: int,
    nonfinite: int, lost_tokens: int, loss: QuantizationLoss | None = None)
DistributedError(ShardwiseError, RuntimeError)
Drift(token: ForwardRef('str'), cosine: ForwardRef('float'), distance: ForwardRef('float'), norm:
    ForwardRef('float'), other_norm: ForwardRef('float'), overlap: ForwardRef('float | None') =
    None)
FormatError(ShardwiseError, ValueError)
IdOutOfRangeError(ShardwiseError, IndexError)
IdTypeError(ShardwiseError, TypeError)
Index(vectors: Vectors, graph: Any, path: str | None, made_of: dict[str, Any] | None = None, kept:
    Any = None)
Index.most_similar(positive: Any, negative: Any = (), topn: int = 10, *, as_frame: bool = False) ->
    Any
Index.recall(queries: int = 1000, topn: int = 10, *, seed: int = 0) -> float
Index.save(path: str | os.PathLike[str]) -> None
Index.similar_by_vector(vector: Any, topn: int = 10, *, as_frame: bool = False) -> Any
MissingLibraryError(ShardwiseError, ImportError)
Neighbour(token: ForwardRef('str'), score: ForwardRef('float'))
OptionError(ShardwiseError, ValueError)
OutputError(ShardwiseError, ValueError)
Padded(rows: ForwardRef('NDArray[Any]'), lengths: ForwardRef('NDArray[np.int64]'))
Padded.mask: NDArray[np.bool_]
PairScores(pearson: ForwardRef('float'), spearman: ForwardRef('float'), pairs: ForwardRef('int'),
    unknown: ForwardRef('int'), skipped: ForwardRef('int'))
PairScores.unknown_share: float
Partition(strategy: Strategy, num_rows: int, num_shards: int, boundaries: tuple[int, ...] | None =
    None)
Partition.balanced(counts: ArrayLike, num_shards: int, *, max_rows: int | None = None) -> Partition
Partition.div(num_rows: int, num_shards: int) -> Partition
Partition.from_json(form: Mapping[str, Any]) -> Partition
Partition.ids_of(shard: int, rows: ArrayLike | None = None) -> NDArray[np.int64]
Partition.locate(ids: ArrayLike) -> tuple[NDArray[np.int64], NDArray[np.int64]]
Partition.mod(num_rows: int, num_shards: int) -> Partition
Partition.ranges(boundaries: Sequence[int] | NDArray[np.integer[Any]]) -> Partition
Partition.shard_sizes: tuple[int, ...]
Partition.to_json() -> dict[str, Any]
PartitionError(ShardwiseError, ValueError)
Pruned(vectors: ForwardRef('Vectors'), remap: ForwardRef('dict[str, Neighbour]'))
QuantizationLoss(max_error: ForwardRef('float'), rms_error: ForwardRef('float'), mean_cosine:
    ForwardRef('float'), neighbours_kept: ForwardRef('float | None') = None)
Ragged(rows: NDArray[Any], offsets: NDArray[np.int64])
Ragged.lengths: NDArray[np.int64]
RaggedIds(values: ForwardRef('Any'), row_splits: ForwardRef('Any'))
ShardwiseError(Exception)
ShardwiseWarning(UserWarning)
SparseIds(indices: ForwardRef('Any'), values: ForwardRef('Any'), dense_shape: ForwardRef('Any'))
StoreError(ShardwiseError, ValueError)
Table(_: Any, __: Any)
Table.checkpoint(path: str | os.PathLike[str], *, overwrite: bool = False, whole: bool = False,
    progress: Callable[[int, int], object] | None = None) -> None
Table.close() -> None
Table.create(path: str | os.PathLike[str], rows: int, dim: int | tuple[int, ...], dtype: Any =
    'float32', *, row_format: str | None = None, shards: int = 1, partition: str | Partition =
    'mod', initializer: str | Initializer | RowMaker = 'zeros', overwrite: bool = False, metadata:
    Mapping[str, Any] | None = None, progress: Callable[[int, int], object] | None = None) -> Table
Table.describe() -> dict[str, Any]
Table.dtype: np.dtype[Any]
Table.flush() -> None
Table.from_array(array: Any, shards: int = 1, partition: str | Partition = 'mod', *, copy: bool =
    False, row_format: str | None = None, dim: int | None = None) -> Table
Table.from_shards(shards: Sequence[Any], partition: str | Partition = 'mod', *, row_format: str |
    None = None, dim: int | None = None) -> Table
Table.lookup(ids: Any, *, out: NDArray[Any] | None = None, out_of_range: OutOfRange = 'error',
    max_norm: float | None = None, dtype: Any = None) -> NDArray[Any]
Table.mode: str
Table.open(path: str | os.PathLike[str], mode: Mode = 'r', *, verify: bool = False) -> Table
Table.optimizer_state: dict[str, tuple[NDArray[Any], ...]]
Table.optimizer_step: int
Table.partition: Partition
Table.pool(ids: Any, offsets: Any = None, *, weights: Any = None, combiner: Combiner = 'sum',
    include_last_offset: bool = False, max_norm: float | None = None, out_of_range: OutOfRange =
    'error', padding_id: int | None = None, default_id: int | None = None, dtype: Any = None, out:
    NDArray[Any] | None = None) -> NDArray[Any]
Table.prefetch(ids: Any) -> None
Table.quantize(row_format: str) -> Table
Table.reset_optimizer() -> None
Table.restore(checkpoint: str | os.PathLike[str], path: str | os.PathLike[str], *, overwrite: bool
    = False, progress: Callable[[int, int], object] | None = None) -> Table
Table.row_format: str
Table.save(path: str | os.PathLike[str], *, overwrite: bool = False, metadata: Mapping[str, Any] |
    None = None) -> None
Table.shape: tuple[int, ...]
Table.shards: tuple[NDArray[Any], ...]
Table.update(ids: Any, gradients: Any, optimizer: Optimizer, *, learning_rate: float | None = None,
    out_of_range: OutOfRange = 'error', padding_id: int | None = None, frozen: slice |
    NDArray[np.bool_] | None = None, nonfinite: Nonfinite = 'error', rounding_seed: int | None =
    None) -> None
Table.update_pool(ids: Any, offsets: Any, gradients: Any, optimizer: Optimizer, *, weights: Any =
    None, combiner: Combiner = 'sum', include_last_offset: bool = False, learning_rate: float |
    None = None, out_of_range: OutOfRange = 'error', padding_id: int | None = None, frozen: slice |
    NDArray[np.bool_] | None = None, nonfinite: Nonfinite = 'error', rounding_seed: int | None =
    None) -> None
Table.write(ids: Any, rows: Any) -> None
TableError(ShardwiseError, ValueError)
TableExistsError(StoreError, FileExistsError)
TableNotFoundError(StoreError, FileNotFoundError)
TokenTypeError(ShardwiseError, TypeError)
UnknownTokenError(ShardwiseError, KeyError)
Vectors(table: Table, vocabulary: Vocabulary)
Vectors.add(tokens: Any, rows: Any, *, replace: bool = False) -> Vectors
Vectors.align(reference: Vectors, *, tokens: Any = None, center: bool = False) -> _compare.Aligned
Vectors.analogy(a: Any, b: Any, c: Any, topn: int = 10, *, restrict: int | None = None, as_frame:
    bool = False) -> Any
Vectors.closer_than(a: str, b: str) -> list[str]
Vectors.distances(word: Any, others: Any = None) -> NDArray[Any]
Vectors.doesnt_match(words: Any) -> str
Vectors.drift(other: Vectors, *, tokens: Any = None, topn: int | None = None, neighbours: int = 0,
    as_frame: bool = False, progress: Callable[[int, int], object] | None = None) -> Any
Vectors.evaluate_analogies(path: str | os.PathLike[str], *, restrict: int | None = 30000,
    case_insensitive: bool = True) -> _evaluate.AnalogyScores
Vectors.evaluate_pairs(path: str | os.PathLike[str], *, restrict: int | None = 300000,
    case_insensitive: bool = True) -> _evaluate.PairScores
Vectors.from_file(path: str | os.PathLike[str], *, shards: int = 1, partition: str = 'mod', format:
    str | None = None, tensor: str | None = None, tokens: str | None = None, dim: int | None =
    None, limit: int | None = None, unknown: str | None = None) -> Vectors
Vectors.index(path: str | os.PathLike[str] | None = None, *, rebuild: bool = False, dtype: str =
    'f16', connectivity: int = 16, expansion_add: int = 128, expansion_search: int = 64, progress:
    Callable[[int, int], object] | None = None) -> Index
Vectors.lookup(tokens: Any, *, unknown: Any = None, sentences: Literal['padded', 'ragged'] | None =
    None, max_length: int | None = None, out: NDArray[Any] | None = None, max_norm: float | None =
    None) -> NDArray[Any] | Padded | Ragged
Vectors.merge(other: Vectors, *, conflict: Literal['first', 'second', 'mean', 'error'] = 'first')
    -> Vectors
Vectors.most_similar(positive: Any, negative: Any = (), topn: int = 10, *, restrict: int | None =
    None, as_frame: bool = False) -> Any
Vectors.most_similar_cosmul(positive: Any, negative: Any = (), topn: int = 10, *, restrict: int |
    None = None, as_frame: bool = False) -> Any
Vectors.open(path: str | os.PathLike[str]) -> Vectors
Vectors.prune(count: int | None = None, *, keep: Any = None, progress: Callable[[int, int], object]
    | None = None) -> _combine.Pruned
Vectors.rank(a: str, b: str) -> int
Vectors.save(path: str | os.PathLike[str], *, dtype: Any = None, overwrite: bool = False, metadata:
    Mapping[str, Any] | None = None, progress: Callable[[int, int], object] | None = None) -> None
Vectors.sentence(sentences: str | Iterable[Any], combiner: _sentences.Combiner = 'mean', *,
    unknown: _rows.UnknownOrSkip = None) -> NDArray[Any]
Vectors.similar_by_vector(vector: Any, topn: int = 10, *, restrict: int | None = None, as_frame:
    bool = False) -> Any
Vectors.similarity(a: Any, b: Any) -> Any
Vectors.subset(tokens: Any, *, missing: Literal['error', 'drop', 'subwords'] = 'error') -> Vectors
Vectors.table: Table
Vectors.vocabulary: Vocabulary
Vocabulary(tokens: Iterable[Token], *, unknown: str | int | Buckets | None = None, counts:
    Sequence[int] | NDArray[Any] | None = None, aliases: Mapping[Any, Any] | None = None, casefold:
    bool = False, normal_form: NormalForm | None = None)
Vocabulary.aliases: dict[str, int]
Vocabulary.arrays() -> tuple[Bytes, Ids, Slots]
Vocabulary.build(tokens: Iterable[Token | Iterable[Token]] | Mapping[Token, int], *, min_count: int
    = 1, max_size: int | None = None, ties: Ties = 'first', specials: Sequence[Token] = (),
    specials_first: bool = True, unknown: str | int | Buckets | None = None, casefold: bool =
    False, normal_form: NormalForm | None = None, progress: Callable[[int, int], object] | None =
    None) -> Vocabulary
Vocabulary.build_from_text(paths: str | os.PathLike[str] | Iterable[str | os.PathLike[str]], *,
    min_count: int = 1, max_size: int | None = None, ties: Ties = 'first', specials:
    Sequence[Token] = (), specials_first: bool = True, unknown: str | int | Buckets | None = None,
    casefold: bool = False, normal_form: NormalForm | None = None, progress: Callable[[int, int],
    object] | None = None) -> Vocabulary
Vocabulary.casefold: bool
Vocabulary.counts: Ids | None
Vocabulary.decode(ids: int | np.integer[Any] | Sequence[Any] | NDArray[Any], missing: str | None =
    None) -> str | list[Any]
Vocabulary.encode(tokens: Token | int | Sequence[Any] | NDArray[Any]) -> int | Ids
Vocabulary.from_arrays(data: Bytes, offsets: Ids, slots: Slots | None, *, unknown: str | int |
    Buckets | None = None, counts: Ids | None = None, casefold: bool = False, normal_form:
    NormalForm | None = None) -> Vocabulary
Vocabulary.normal_form: NormalForm | None
Vocabulary.num_ids: int
Vocabulary.open(path: str | os.PathLike[str]) -> Vocabulary
Vocabulary.save(path: str | os.PathLike[str], *, overwrite: bool = False) -> None
Vocabulary.unknown: str | int | Buckets | None
Vocabulary.unknown_id: int | None
VocabularyError(ShardwiseError, ValueError)
convert(source: str | os.PathLike[str], path: str | os.PathLike[str], *, shards: int | None = None,
    partition: str | Partition | None = None, dtype: Any = None, format: str | None = None, tensor:
    str | None = None, tokens: str | None = None, pieces: Literal['mod', 'div'] | None = None, dim:
    int | None = None, limit: int | None = None, unknown: str | None = None, to: str | None = None,
    neighbours: int = 0, metadata: Mapping[str, Any] | None = None, overwrite: bool = False,
    progress: Callable[[str, int, int], object] | None = None) -> Converted
dequantize_rows(packed: Any, format: str | RowFormat, dim: int | None = None) ->
    NDArray[np.float32]
embedding_lookup(params: Any, ids: Any, partition_strategy: str | Partition = 'mod', name: str |
    None = None, *, max_norm: float | None = None, out_of_range: OutOfRange = 'error', out:
    NDArray[Any] | None = None) -> NDArray[Any]
embedding_lookup_sparse(params: Any, sp_ids: Any, sp_weights: Any, partition_strategy: str |
    Partition = 'mod', name: str | None = None, combiner: str | None = None, max_norm: float | None
    = None, *, out_of_range: OutOfRange = 'error', like_tensorflow: bool = False) -> NDArray[Any]
empty_cache() -> int
hash_buckets(tokens: str | bytes | int | Sequence[Any] | NDArray[Any], num_buckets: int, key:
    Sequence[int] | None = None) -> NDArray[np.int64]
num_threads() -> int
pool_tables(tables: Sequence[tuple[Any, ...]], *, combiner: Combiner | Sequence[Combiner] = 'sum',
    concat: bool = True, include_last_offset: bool = False, max_norm: float | None = None,
    out_of_range: OutOfRange = 'error', padding_id: int | None = None, dtype: Any = None, out:
    NDArray[Any] | None = None) -> Any
quantization_error(rows: Any, packed: Any, format: str | RowFormat) -> QuantizationLoss
quantize_rows(rows: Any, format: str | RowFormat) -> NDArray[np.uint8]
safe_embedding_lookup_sparse(embedding_weights: Any, sparse_ids: Any, sparse_weights: Any = None,
    combiner: str | None = 'mean', default_id: int | None = None, name: str | None = None,
    partition_strategy: str | Partition = 'div', max_norm: float | None = None, *, out_of_range:
    OutOfRange = 'error', like_tensorflow: bool = False) -> NDArray[Any]
set_num_threads(count: int) -> None
formats.FORMATS
formats.Progress
formats.Source(*, path: str, format: str, shape: tuple[int, ...], dtype: np.dtype[Any], vocabulary:
    Vocabulary | None = None, duplicates: int = 0, partition: Partition | None = None, metadata:
    Mapping[str, Any] = <factory>, _rows: RowReader, _packed: tuple[Layout, RowReader] | None =
    None)
formats.Source.blocks(rows: int | None = None) -> Iterator[NDArray[Any]]
formats.Source.read(begin: int = 0, end: int | None = None) -> NDArray[Any]
formats.WRITABLE
formats.open(path: StrPath, *, format: str | None = None, limit: int | None = None, dim: int | None
    = None, unknown: str | None = None, tensor: str | None = None, tokens: str | None = None,
    partition: Literal['mod', 'div'] | None = None, progress: Progress | None = None) -> Source
formats.open_vocabulary(path: StrPath, format: str | None = None, *, unknown: str | int | Buckets |
    None = None, casefold: bool = False, normal_form: NormalForm | None = None) -> Vocabulary
formats.table_source(table: Table, vocabulary: Vocabulary | None = None, *, path: StrPath = '',
    metadata: Mapping[str, Any] | None = None) -> Source
formats.write(path: StrPath, source: Source, *, format: str | None = None, overwrite: bool = False,
    progress: Progress | None = None) -> None
formats.write_vocabulary(vocabulary: Vocabulary, path: StrPath, format: str | None = None, *,
    overwrite: bool = False) -> None
initializers.Initializer(kind: str, a: float = 0.0, b: float = 0.0, seed: int = 0)
initializers.Initializer.defaults(kind: str) -> tuple[float, float]
initializers.Initializer.maker(shape: tuple[int, ...], dtype: np.dtype[Any]) -> RowMaker | None
initializers.RowMaker
initializers.glorot_normal(*, seed: int = 0) -> Initializer
initializers.glorot_uniform(*, seed: int = 0) -> Initializer
initializers.normal(mean: float = 0.0, stddev: float = 0.05, *, seed: int = 0) -> Initializer
initializers.truncated_normal(mean: float = 0.0, stddev: float = 0.05, *, seed: int = 0) ->
    Initializer
initializers.uniform(low: float = -0.05, high: float = 0.05, *, seed: int = 0) -> Initializer
initializers.zeros() -> Initializer
optimizers.Adagrad(learning_rate: float = 0.01, *, learning_rate_decay: float = 0.0, weight_decay:
    float = 0.0, initial_accumulator_value: float = 0.0, eps: float = 1e-10, clip_norm: float |
    None = None)
optimizers.Adagrad.slots() -> tuple[Slot, ...]
optimizers.Adam(learning_rate: float = 0.001, *, betas: tuple[float, float] = (0.9, 0.999), eps:
    float = 1e-08, weight_decay: float = 0.0, corrected: bool = False, clip_norm: float | None =
    None)
optimizers.Adam.slots() -> tuple[Slot, ...]
optimizers.AdamW(learning_rate: float = 0.001, *, betas: tuple[float, float] = (0.9, 0.999), eps:
    float = 1e-08, weight_decay: float = 0.01, corrected: bool = False, clip_norm: float | None =
    None)
optimizers.AdamW.slots() -> tuple[Slot, ...]
optimizers.Ftrl(learning_rate: float = 0.001, *, initial_accumulator_value: float = 0.1, l1: float
    = 0.0, l2: float = 0.0, l2_shrinkage: float = 0.0, beta: float = 0.0, clip_norm: float | None =
    None)
optimizers.Ftrl.slots() -> tuple[Slot, ...]
optimizers.Optimizer(args, kwargs)
optimizers.Optimizer.slots() -> tuple[Slot, ...]
optimizers.RMSprop(learning_rate: float = 0.01, *, alpha: float = 0.99, eps: float = 1e-08,
    weight_decay: float = 0.0, momentum: float = 0.0, clip_norm: float | None = None)
optimizers.RMSprop.slots() -> tuple[Slot, ...]
optimizers.RowwiseAdagrad(learning_rate: float = 0.01, *, weight_decay: float = 0.0,
    initial_accumulator_value: float = 0.0, eps: float = 1e-08, clip_norm: float | None = None)
optimizers.RowwiseAdagrad.slots() -> tuple[Slot, ...]
optimizers.SGD(learning_rate: float = 0.001, *, momentum: float = 0.0, nesterov: bool = False,
    weight_decay: float = 0.0, clip_norm: float | None = None)
optimizers.SGD.slots() -> tuple[Slot, ...]
optimizers.Slot(name: str, per_row: bool = False, initial: float = 0.0, counts: bool = False)
skipgram.Options(model: Model = 'skipgram', dim: int = 100, window: int = 5, negative: int = 5,
    negative_power: float = 0.75, sample: float = 0.001, epochs: int = 5, learning_rate: float |
    None = None, final_learning_rate: float = 0.0, min_count: int = 5, max_size: int | None = None,
    min_n: int = 0, max_n: int = 0, bucket: int = 2000000, seed: int = 1)
skipgram.Options.from_json(found: Any) -> Options
skipgram.Options.rate: float
skipgram.Options.rate_at(done: float) -> float
skipgram.Options.subwords: bool
skipgram.Options.to_json() -> dict[str, Any]
skipgram.Progress(stage: ForwardRef('str'), done: ForwardRef('int'), total: ForwardRef('int'),
    words_per_second: ForwardRef('float') = 0.0, loss: ForwardRef('float') = nan, learning_rate:
    ForwardRef('float') = 0.0)
skipgram.resume(corpus: StrPath | Iterable[Any], output: StrPath | None = None, *, checkpoint:
    StrPath, checkpoint_every: float | None = None, threads: int | None = None, shards: int = 1,
    partition: str | Partition = 'mod', dtype: Any = 'float32', context: StrPath | None = None,
    overwrite: bool = False, on_disk: bool | None = None, work: StrPath | None = None, progress:
    Callable[[Progress], object] | None = None) -> Vectors
skipgram.train(corpus: StrPath | Iterable[Any], output: StrPath | None = None, *, model: Model =
    'skipgram', dim: int = 100, window: int = 5, negative: int = 5, negative_power: float = 0.75,
    sample: float = 0.001, epochs: int = 5, learning_rate: float | None = None,
    final_learning_rate: float = 0.0, min_count: int = 5, max_size: int | None = None, min_n: int =
    0, max_n: int = 0, bucket: int = 2000000, seed: int = 1, threads: int | None = None, shards:
    int = 1, partition: str | Partition = 'mod', dtype: Any = 'float32', context: StrPath | None =
    None, start: Vectors | None = None, start_context: Vectors | None = None, checkpoint: StrPath |
    None = None, checkpoint_every: float | None = None, overwrite: bool = False, on_disk: bool |
    None = None, work: StrPath | None = None, progress: Callable[[Progress], object] | None = None)
    -> Vectors
store.Checked(file: str, bytes: int, state: Literal['ok', 'damaged', 'missing', 'unknown',
    'updated'], expected: str | None, got: str | None, problem: str | None = None)
store.Manifest(layout: Layout, partition: Partition, shards: tuple[DataFile, ...], vocabulary:
    DataFile | None = None, unknown_id: int | None = None, generation: int = 1, metadata: dict[str,
    Any] = <factory>, optimizer: OptimizerFiles | None = None)
store.Manifest.data_files() -> tuple[DataFile, ...]
store.Manifest.dtype: str
store.Manifest.files() -> set[str]
store.Manifest.row_format: str
store.Manifest.shape: tuple[int, ...]
store.Manifest.to_json() -> str
store.Stored(table: Table, vocabulary: Vocabulary | None, manifest: Manifest)
store.create_table(path: str | os.PathLike[str], shape: tuple[int, ...], *, dtype: Any, row_format:
    str | None = None, partition: Partition, initializer: Any, overwrite: bool = False, metadata:
    Mapping[str, Any] | None = None, progress: Callable[[int, int], object] | None = None) -> None
store.describe_checkpoint(path: str | os.PathLike[str]) -> dict[str, Any] | None
store.open_table(path: str | os.PathLike[str], mode: Mode = 'r', *, verify: bool = False) -> Stored
store.open_vocabulary(path: str | os.PathLike[str]) -> Vocabulary
store.refuse_existing(path: str | os.PathLike[str]) -> None
store.reshard(source: str | os.PathLike[str], path: str | os.PathLike[str], *, shards: int | None =
    None, partition: str | Partition | None = None, dtype: Any = None, overwrite: bool = False,
    metadata: Mapping[str, Any] | None = None, progress: Callable[[int, int], object] | None =
    None) -> Manifest
store.restore(checkpoint: str | os.PathLike[str], path: str | os.PathLike[str], *, overwrite: bool
    = False, progress: Callable[[int, int], object] | None = None) -> Manifest
store.restore_table(checkpoint: str | os.PathLike[str], path: str | os.PathLike[str], *, overwrite:
    bool = False, progress: Callable[[int, int], object] | None = None) -> Table
store.save_vocabulary(path: str | os.PathLike[str], vocabulary: Vocabulary, *, overwrite: bool =
    False) -> None
store.storable_dtype(dtype: Any) -> np.dtype[Any]
store.update_checksums(path: str | os.PathLike[str], *, progress: Callable[[int, int], object] |
    None = None) -> list[Checked]
store.verify_table(path: str | os.PathLike[str], *, update: bool = False, progress: Callable[[int,
    int], object] | None = None) -> list[Checked]
store.write_blocks(path: str | os.PathLike[str], blocks: Iterable[NDArray[Any]], *, shape:
    tuple[int, ...], dtype: Any, row_format: str | None = None, partition: Partition, vocabulary:
    Vocabulary | None = None, overwrite: bool = False, metadata: Mapping[str, Any] | None = None,
    progress: Callable[[int, int], object] | None = None) -> None
store.write_checkpoint(table: Table, path: str | os.PathLike[str], *, overwrite: bool = False,
    whole: bool = False, progress: Callable[[int, int], object] | None = None) -> None
store.write_table(path: str | os.PathLike[str], table: Table, *, vocabulary: Vocabulary | None =
    None, dtype: Any = None, overwrite: bool = False, metadata: Mapping[str, Any] | None = None,
    progress: Callable[[int, int], object] | None = None) -> None
"""


def names_of(module):
    return sorted(
        name
        for name in getattr(module, "__all__", dir(module))
        if not name.startswith("_") and not inspect.ismodule(getattr(module, name))
    )


def text_of(annotation):
    return (
        annotation if isinstance(annotation, str) else getattr(annotation, "__name__", annotation)
    )


def signature_of(function, bound):
    """A signature as the source has it; `inspect` would put annotations into quotes."""
    found = inspect.signature(function)
    parts, kinds = [], inspect.Parameter
    star = False
    for i, one in enumerate(found.parameters.values()):
        if bound and i == 0:
            continue
        if one.kind is kinds.KEYWORD_ONLY and not star:
            parts.append("*")
            star = True
        part = one.name
        if one.annotation is not kinds.empty:
            part += f": {text_of(one.annotation)}"
        if one.default is not kinds.empty:
            part += f" = {one.default!r}"
        parts.append(part)
    result = found.return_annotation
    end = "" if result is inspect.Signature.empty else f" -> {text_of(result)}"
    return f"({', '.join(parts)}){end}"


def members_of(cls):
    """The public members that a class defines itself: (name, what it is)."""
    for name in sorted(vars(cls)):
        member = inspect.getattr_static(cls, name)
        if not name.startswith("_") and not inspect.ismemberdescriptor(member):
            yield name, member


def describe(path, thing):
    if not inspect.isclass(thing):
        yield path + signature_of(thing, bound=False)
        return
    if issubclass(thing, (Exception, Warning)):
        yield f"{path}({', '.join(base.__name__ for base in thing.__bases__)})"
        return
    make = thing.__new__ if issubclass(thing, tuple) else thing.__init__
    yield path + signature_of(make, bound=True).removesuffix(" -> None")
    for name, member in members_of(thing):
        if isinstance(member, property):
            yield f"{path}.{name}: {text_of(inspect.signature(member.fget).return_annotation)}"
        elif isinstance(member, (classmethod, staticmethod)):
            bound = isinstance(member, classmethod)
            yield f"{path}.{name}{signature_of(member.__func__, bound)}"
        elif inspect.isfunction(member):
            yield f"{path}.{name}{signature_of(member, bound=True)}"


def described():
    for module in (shardwise, formats, initializers, optimizers, skipgram, store):
        prefix = module.__name__.removeprefix("shardwise").removeprefix(".")
        for name in names_of(module):
            if not (module is not shardwise and hasattr(shardwise, name)):
                thing = getattr(module, name)
                path = f"{prefix}.{name}".removeprefix(".")
                if inspect.isclass(thing) or inspect.isfunction(thing):
                    yield from describe(path, thing)
                else:  # a type's name
                    yield path


def test_public_names_and_signatures():
    lines = textwrap.TextWrapper(
        99, subsequent_indent="    ", break_long_words=False, break_on_hyphens=False
    )
    assert "\n".join(map(lines.fill, described())) + "\n" == API


def test_version():
    assert shardwise.__version__ == "0.1.0"


def documented():
    for module in (shardwise, formats, initializers, optimizers, skipgram, store):
        yield module.__name__, module
        for name in names_of(module):
            thing = getattr(module, name)
            if inspect.isclass(thing) or inspect.isfunction(thing):
                yield name, thing
            if inspect.isclass(thing):
                for member_name, member in members_of(thing):
                    if callable(member) or isinstance(
                        member, (property, classmethod, staticmethod)
                    ):
                        yield f"{name}.{member_name}", member


@pytest.mark.parametrize("thing", [pytest.param(thing, id=name) for name, thing in documented()])
def test_everything_public_has_a_docstring(thing):
    words = inspect.getdoc(thing)
    assert words
    assert words.split("\n")[0].endswith((".", ":"))


MODULES = [
    found.name
    for found in pkgutil.walk_packages(shardwise.__path__, "shardwise.")
    if not found.name.endswith("._native")
]


@pytest.mark.parametrize("name", ["shardwise", *MODULES])
def test_examples(name):
    if name.startswith(("shardwise.torch", "shardwise.distributed")):
        pytest.importorskip("torch")
    threads = shardwise.num_threads()
    try:
        flags = doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS
        assert doctest.testmod(importlib.import_module(name), optionflags=flags).failed == 0
    finally:
        shardwise.set_num_threads(threads)


def examples_of(thing):
    return "".join(
        example.source
        for example in doctest.DocTestParser().get_examples(inspect.getdoc(thing) or "")
    )


def exemplified():
    classes = {}
    for name, thing in documented():
        owner, _, member = name.partition(".")
        if inspect.ismodule(thing):
            classes = {}  # names are those of a module
        elif member:
            yield name, examples_of(thing) + classes[owner], f".{member}"
        else:
            classes[name] = examples_of(thing)
            yield name, classes[name], ""


@pytest.mark.parametrize(
    ("shown", "how"), [pytest.param(shown, how, id=name) for name, shown, how in exemplified()]
)
def test_everything_public_has_an_example(shown, how):
    """Its own, or a member one of its class that names it; `test_examples` runs them."""
    assert shown
    assert re.search(rf"{re.escape(how)}\b", shown), "the example does not show it"


def test_the_stub_of_the_native_module(tmp_path):
    pytest.importorskip("nanobind", "3.1")
    committed = Path(shardwise.__file__).with_name("_native.pyi")
    made = tmp_path / "_native.pyi"
    command = [sys.executable, "-m", "nanobind.stubgen", "-q", "-m", "shardwise._native", "-o"]
    subprocess.run([*command, made], check=True, cwd=tmp_path)
    assert made.read_text() == committed.read_text()


def test_importing_it_imports_no_framework_and_no_command_line():
    code = "import shardwise, sys; print(*sys.modules)"
    out = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    heavy = {"torch", "tensorflow", "jax", "typer", "rich", "ml_dtypes", "xxhash", "safetensors"}
    assert not heavy & set(out.stdout.split())
