"""Make neighbours.json: what gensim 4.4 answers on examples/novels-3000.bin.

Run it by hand where gensim is installed: python tests/golden/make_neighbours.py
"""

import json
from pathlib import Path

from gensim.models import KeyedVectors

HERE = Path(__file__).parent
WORDS, STEP, TOPN = 200, 15, 10


def main():
    vectors = KeyedVectors.load_word2vec_format(
        HERE.parents[1] / "examples" / "novels-3000.bin", binary=True
    )
    found = {}
    for word in vectors.index_to_key[: WORDS * STEP : STEP]:
        found[word] = [[w, round(score, 7)] for w, score in vectors.most_similar(word, topn=TOPN)]
    lines = ",\n".join(f"{json.dumps(word)}: {json.dumps(near)}" for word, near in found.items())
    (HERE / "neighbours.json").write_text("{\n" + lines + "\n}\n")


if __name__ == "__main__":
    main()
