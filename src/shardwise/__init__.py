"""Embedding tables: exact lookups by id at memory speed, on tables cut into shards."""

from shardwise import initializers as initializers
from shardwise._convert import Converted as Converted
from shardwise._convert import convert as convert
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
from shardwise._hashing import encode_with_buckets as encode_with_buckets
from shardwise._hashing import hash_buckets as hash_buckets
from shardwise._lookup import embedding_lookup as embedding_lookup
from shardwise._neighbours import Neighbour as Neighbour
from shardwise._partition import Partition as Partition
from shardwise._runtime import empty_cache as empty_cache
from shardwise._runtime import num_threads as num_threads
from shardwise._runtime import set_num_threads as set_num_threads
from shardwise._table import Table as Table
from shardwise._vectors import Vectors as Vectors
from shardwise._vocabulary import Vocabulary as Vocabulary

__version__ = "0.1.0"
