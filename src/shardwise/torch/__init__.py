"""torch.nn's Embedding and EmbeddingBag over tables, trained by torch's optimizers or at once."""

from shardwise._errors import MissingLibraryError as _MissingLibraryError

try:
    import torch as _torch  # noqa: F401 - asked for here, so that the error says what to install
except ImportError:
    raise _MissingLibraryError(
        "expected the library torch for shardwise.torch, got none; install it: "
        'pip install "shardwise[torch]"'
    ) from None

from shardwise.torch._bag import EmbeddingBag as EmbeddingBag
from shardwise.torch._embedding import Embedding as Embedding
from shardwise.torch._lookup import embedding_lookup as embedding_lookup
from shardwise.torch._sparse import embedding_lookup_sparse as embedding_lookup_sparse
from shardwise.torch._sparse import safe_embedding_lookup_sparse as safe_embedding_lookup_sparse
