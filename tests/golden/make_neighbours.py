"""Make neighbours.npz: what gensim 4.4 answers on examples/novels-3000.bin.

`ids` and `scores`, of shape (words, 10), are of the ten nearest words of the first 2,000 ones.
Run it by hand where gensim is installed: python tests/golden/make_neighbours.py
"""

from pathlib import Path

import numpy as np
from gensim.models import KeyedVectors

HERE = Path(__file__).parent
WORDS, TOPN = 2000, 10


def main():
    vectors = KeyedVectors.load_word2vec_format(
        HERE.parents[1] / "examples" / "novels-3000.bin", binary=True
    )
    near = [vectors.most_similar(word, topn=TOPN) for word in vectors.index_to_key[:WORDS]]
    ids = [[vectors.key_to_index[word] for word, _ in one] for one in near]
    scores = [[score for _, score in one] for one in near]
    np.savez_compressed(
        HERE / "neighbours.npz", ids=np.array(ids, np.uint16), scores=np.array(scores, np.float32)
    )


if __name__ == "__main__":
    main()
