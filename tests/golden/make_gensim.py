"""Make gensim.json: what gensim 4.4 answers to a script of calls on examples/novels-3000.bin.

Run it by hand where gensim is installed: python tests/golden/make_gensim.py
"""

import json
import os
import tempfile
from pathlib import Path

import numpy as np
from gensim.models import KeyedVectors

HERE = Path(__file__).absolute().parent

# Each is a line of Python on `kv`; tests/test_gensim.py runs the same lines.
CALLS = """
kv.most_similar("sea", topn=5)
kv.most_similar(7, topn=5)
kv.most_similar(positive=["woman", "king"], negative=["man"], topn=5)
kv.most_similar(positive=[("woman", 0.5), "king"], negative=[("man", 0.3)], topn=5)
kv.most_similar(kv["sea"], topn=3)
kv.most_similar([kv["sea"] * 3, "king"], topn=3)
kv.most_similar("sea", topn=3, clip_start=500, clip_end=1500)
kv.most_similar("sea", topn=3, restrict_vocab=800)
kv.most_similar("sea", topn=0)
kv.most_similar("sea", topn=None)[:7].tolist()
kv.most_similar("sea", topn=None, clip_start=5, clip_end=9).tolist()
kv.most_similar_cosmul(positive=["woman", "king"], negative=["man"], topn=5)
kv.most_similar_cosmul("sea", topn=None)[:5].tolist()
kv.similar_by_word("ship", topn=4)
kv.similar_by_key("ship", topn=4, restrict_vocab=900)
kv.similar_by_vector(kv["ship"], topn=4)
float(kv.similarity("sea", "ship"))
float(kv.distance("sea", "ship"))
kv.distances("sea")[:6].tolist()
kv.distances("sea", ["ship", "king"]).tolist()
kv.distances(kv["sea"], ["ship"]).tolist()
float(kv.n_similarity(["sea", "ship"], ["king", "queen", "nosuchword"]))
kv.cosine_similarities(kv["sea"], kv[["ship", "king"]]).tolist()
kv.rank("sea", "ship")
kv.rank("sea", "sea")
kv.closer_than("sea", "ship")
kv.most_similar_to_given("sea", ["king", "ship", "house"])
kv.doesnt_match(["king", "queen", "nosuchword", "prince", "sea"])
[(float(score), word) for score, word in kv.rank_by_centrality(["king", "queen", "prince", "sea"])]
[word for _, word in kv.rank_by_centrality(["king", "queen", "sea"], use_norm=False)]
kv.relative_cosine_similarity("sea", "ship")
kv.get_mean_vector(["sea", "nosuchword", "ship"]).tolist()[:4]
kv.get_mean_vector(["sea", "ship"], weights=[1, -3], pre_normalize=False).tolist()[:4]
kv.get_mean_vector(["sea", kv["ship"]], post_normalize=True).tolist()[:4]
kv.get_vector("sea", norm=True).tolist()[:4]
kv.get_normed_vectors()[5].tolist()[:4]
kv.norms[:5].tolist()
kv.vectors[2:4, :3].tolist()
kv[["sea", 3]][:, :3].tolist()
kv[3][:3].tolist()
kv.index_to_key[:4]
kv.index_to_key[-1]
kv.key_to_index["sea"]
list(kv.key_to_index.items())[:3]
kv.get_index("sea")
kv.get_index(5)
kv.get_index("nosuchword", 99)
["sea" in kv, 3 in kv, 99999 in kv, "nosuchword" in kv, kv.has_index_for("sea")]
[int(kv.get_vecattr("sea", "count")), int(kv.get_vecattr(0, "count"))]
[len(kv), kv.vector_size, str(kv)]
kv.vectors_for_all(["ship", "nosuchword", "sea", "ship"]).index_to_key[:]
int(kv.vectors_for_all(["ship", "sea"], copy_vecattrs=True).get_vecattr("sea", "count"))
kv.evaluate_word_pairs("pairs.txt")
kv.evaluate_word_pairs("pairs.txt", dummy4unknown=True)
kv.evaluate_word_pairs("pairs.txt", restrict_vocab=700, case_insensitive=False)
kv.evaluate_word_analogies("analogies.txt")
kv.evaluate_word_analogies("analogies.txt", restrict_vocab=1500, dummy4unknown=True)
kv.evaluate_word_analogies("analogies.txt", case_insensitive=False)
kv["nosuchword"]
kv[["sea", "nosuchword"]]
kv.get_index("nosuchword")
kv.get_vecattr("sea", "nosuchattribute")
kv.most_similar("nosuchword")
kv.most_similar([])
kv.most_similar_cosmul([], ["sea"])
kv.similarity("sea", "nosuchword")
kv.closer_than("sea", "nosuchword")
kv.distances("sea", ["nosuchword"])
kv.get_mean_vector([])
kv.get_mean_vector(["sea"], weights=[1, 2])
kv.get_mean_vector(["nosuchword"], ignore_missing=False)
kv.doesnt_match([])
kv.doesnt_match(["nosuchword"])
kv.n_similarity([], ["sea"])
kv.vocab
kv.index2word
"""

PAIRS = """# a comment
word\tword\tscore
Sea\tship\t7.5
king\tqueen\t8.25
king\tsea\t1
house\troom\t6
house\tnosuchword\t5
man\twoman\t7.5
night\tday\t6.5
eyes\tship\t0.5
"""

ANALOGIES = """: family
man woman boy girl
man woman king queen
man king woman queen
boy girl brother sister
brother sister father mother
: rest of it
he she his her
Night day nosuchword sun
come came go went
"""


def plain(value):
    """What JSON gives back as it was put in."""
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    return value.item() if isinstance(value, np.generic) else value


def main():
    kv = KeyedVectors.load_word2vec_format(
        HERE.parents[1] / "examples" / "novels-3000.bin", binary=True
    )
    kv.fill_norms()
    os.chdir(tempfile.mkdtemp())  # the lines name files there
    Path("pairs.txt").write_text(PAIRS)
    Path("analogies.txt").write_text(ANALOGIES)
    found = {}
    for call in CALLS.split("\n")[1:-1]:
        try:
            found[call] = plain(eval(call, {"kv": kv}))
        except Exception as error:  # what kind of error a script may catch
            found[call] = {"error": type(error).__name__}
    lines = ",\n".join(f"{json.dumps(call)}: {json.dumps(value)}" for call, value in found.items())
    files = json.dumps({"pairs.txt": PAIRS, "analogies.txt": ANALOGIES})
    text = f'{{"files": {files},\n"calls": {{\n{lines}\n}}}}\n'
    (HERE / "gensim.json").write_text(text)


if __name__ == "__main__":
    main()
