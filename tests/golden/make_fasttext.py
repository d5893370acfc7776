"""Make fasttext.npz: what gensim 4.4 answers on a model of fastText's.

The model is lee_fasttext_new.bin of gensim's own tests, which is no part of this repository:
`python tests/golden/make_fasttext.py MODEL`, where gensim is installed. `known` are the vectors of
each fourth of its words but the first ("</s>" has no n-grams in fastText, and has some in gensim),
`unknown` those of the same words written backwards with an "x" behind.
"""

import sys
from pathlib import Path

import numpy as np
from gensim.models.fasttext import load_facebook_vectors

STEP = 4


def main(model):
    vectors = load_facebook_vectors(model)
    words = [word for word in vectors.index_to_key if word != "</s>"][::STEP]
    other = [word[::-1] + "x" for word in words]
    np.savez_compressed(
        Path(__file__).with_name("fasttext.npz"),
        words=np.array(words),
        known=np.stack([vectors[word] for word in words]),
        unknown=np.stack([vectors.get_vector(word) for word in other]),
        is_known=np.array([word in vectors.key_to_index for word in other]),
    )


if __name__ == "__main__":
    main(sys.argv[1])
