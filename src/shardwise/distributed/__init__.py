"""Tables spread over the processes of torch.distributed."""

from shardwise._errors import MissingLibraryError as _MissingLibraryError

try:
    import torch as _torch  # noqa: F401 - asked for here, so that the error says what to install
except ImportError:
    raise _MissingLibraryError(
        "expected the library torch for shardwise.distributed, got none; install it: "
        'pip install "shardwise[torch]"'
    ) from None

from shardwise.distributed._table import DistributedTable as DistributedTable
