"""gensim's names over tables: change the import to `from shardwise.gensim import KeyedVectors`."""

from shardwise.gensim._keyed import FastTextKeyedVectors as FastTextKeyedVectors
from shardwise.gensim._keyed import KeyedVectors as KeyedVectors
from shardwise.gensim._keyed import load_facebook_vectors as load_facebook_vectors

Word2VecKeyedVectors = KeyedVectors
EuclideanKeyedVectors = KeyedVectors
