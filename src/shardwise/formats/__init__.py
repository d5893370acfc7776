"""Foreign files of vectors, one module for each format: `open` finds out which it is."""

from shardwise.formats._open import FORMATS as FORMATS
from shardwise.formats._open import open as open
from shardwise.formats._source import Progress as Progress
from shardwise.formats._source import Source as Source
from shardwise.formats._vocabularies import open_vocabulary as open_vocabulary
from shardwise.formats._vocabularies import write_vocabulary as write_vocabulary
from shardwise.formats._write import WRITABLE as WRITABLE
from shardwise.formats._write import table_source as table_source
from shardwise.formats._write import write as write
