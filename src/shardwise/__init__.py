"""Embedding tables: exact lookups by id at memory speed, on tables cut into shards."""

from typing import TYPE_CHECKING as _TYPE_CHECKING

from shardwise import initializers as initializers
from shardwise import optimizers as optimizers
from shardwise._bags import RaggedIds as RaggedIds
from shardwise._bags import SparseIds as SparseIds
from shardwise._errors import BagError as BagError
from shardwise._errors import DistributedError as DistributedError
from shardwise._errors import FormatError as FormatError
from shardwise._errors import IdOutOfRangeError as IdOutOfRangeError
from shardwise._errors import IdTypeError as IdTypeError
from shardwise._errors import MissingLibraryError as MissingLibraryError
from shardwise._errors import OptionError as OptionError
from shardwise._errors import OutputError as OutputError
from shardwise._errors import PartitionError as PartitionError
from shardwise._errors import ShardwiseError as ShardwiseError
from shardwise._errors import ShardwiseWarning as ShardwiseWarning
from shardwise._errors import StoreError as StoreError
from shardwise._errors import TableError as TableError
from shardwise._errors import TableExistsError as TableExistsError
from shardwise._errors import TableNotFoundError as TableNotFoundError
from shardwise._errors import TokenTypeError as TokenTypeError
from shardwise._errors import UnknownTokenError as UnknownTokenError
from shardwise._errors import VocabularyError as VocabularyError
from shardwise._hashing import Buckets as Buckets
from shardwise._hashing import hash_buckets as hash_buckets
from shardwise._lookup import embedding_lookup as embedding_lookup
from shardwise._lookup_sparse import embedding_lookup_sparse as embedding_lookup_sparse
from shardwise._lookup_sparse import safe_embedding_lookup_sparse as safe_embedding_lookup_sparse
from shardwise._partition import Partition as Partition
from shardwise._pool_tables import pool_tables as pool_tables
from shardwise._quantize import QuantizationLoss as QuantizationLoss
from shardwise._quantize import dequantize_rows as dequantize_rows
from shardwise._quantize import quantization_error as quantization_error
from shardwise._quantize import quantize_rows as quantize_rows
from shardwise._runtime import empty_cache as empty_cache
from shardwise._runtime import num_threads as num_threads
from shardwise._runtime import set_num_threads as set_num_threads
from shardwise._table import Table as Table
from shardwise._vocabulary import Vocabulary as Vocabulary

if _TYPE_CHECKING:
    from shardwise import formats as formats
    from shardwise import skipgram as skipgram
    from shardwise import store as store
    from shardwise._convert import Converted as Converted
    from shardwise._convert import convert as convert
    from shardwise._vectors import Vectors as Vectors
    from shardwise.words._combine import Pruned as Pruned
    from shardwise.words._compare import Aligned as Aligned
    from shardwise.words._compare import Drift as Drift
    from shardwise.words._evaluate import AnalogyScores as AnalogyScores
    from shardwise.words._evaluate import AnalogySection as AnalogySection
    from shardwise.words._evaluate import PairScores as PairScores
    from shardwise.words._index import Index as Index
    from shardwise.words._neighbours import Neighbour as Neighbour
    from shardwise.words._sentences import Padded as Padded
    from shardwise.words._sentences import Ragged as Ragged

__version__ = "0.1.0"

# Words and files bring most of the modules along: they are imported when they are first named.
_LATER = {
    "formats": "formats",
    "skipgram": "skipgram",
    "store": "store",
    "Aligned": "words._compare",
    "AnalogyScores": "words._evaluate",
    "AnalogySection": "words._evaluate",
    "Converted": "_convert",
    "Drift": "words._compare",
    "Index": "words._index",
    "Neighbour": "words._neighbours",
    "Padded": "words._sentences",
    "PairScores": "words._evaluate",
    "Pruned": "words._combine",
    "Ragged": "words._sentences",
    "Vectors": "_vectors",
    "convert": "_convert",
}


def __getattr__(name: str) -> object:
    from importlib import import_module

    if name not in _LATER:
        raise AttributeError(f"module 'shardwise' has no attribute {name!r}")
    module = import_module(f"shardwise.{_LATER[name]}")
    found = module if name == _LATER[name] else getattr(module, name)
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *_LATER})


# `from shardwise import *` takes those that are imported later, too.
__all__ = [name for name in __dir__() if not name.startswith("_")]
