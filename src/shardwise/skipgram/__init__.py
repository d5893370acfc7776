"""Skip-gram and CBOW: word vectors trained on text, as a table."""

from shardwise.skipgram._loop import Progress as Progress
from shardwise.skipgram._options import Options as Options
from shardwise.skipgram._train import resume as resume
from shardwise.skipgram._train import train as train
