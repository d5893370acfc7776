"""Tables on disk: a directory of safetensors files and one manifest, mapped when it is opened."""

from shardwise._safetensors import storable_dtype as storable_dtype
from shardwise.store._checkpoint import write_checkpoint as write_checkpoint
from shardwise.store._create import create_table as create_table
from shardwise.store._directory import refuse_existing as refuse_existing
from shardwise.store._manifest import Manifest as Manifest
from shardwise.store._open import Stored as Stored
from shardwise.store._open import open_table as open_table
from shardwise.store._reshard import reshard as reshard
from shardwise.store._restore import describe_checkpoint as describe_checkpoint
from shardwise.store._restore import restore as restore
from shardwise.store._restore import restore_table as restore_table
from shardwise.store._verify import Checked as Checked
from shardwise.store._verify import update_checksums as update_checksums
from shardwise.store._verify import verify_table as verify_table
from shardwise.store._vocabulary import open_vocabulary as open_vocabulary
from shardwise.store._vocabulary import save_vocabulary as save_vocabulary
from shardwise.store._write import write_blocks as write_blocks
from shardwise.store._write import write_table as write_table
