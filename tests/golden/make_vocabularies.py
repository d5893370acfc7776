"""Write what Keras and the tokenizers library save, and the ids they give, to two files.

Run it in an environment of its own with keras and tensorflow, and in one with tokenizers:

    python tests/golden/make_vocabularies.py keras
    python tests/golden/make_vocabularies.py tokenizers

Nothing else needs them: test_vocabulary_files.py reads the files.
"""

import json
import os
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).parent
WORDS = ["palmer", "palmer", "palmer", "lake", "lake", "emerson", "日本", "a b", "é"]
ASKED = [*dict.fromkeys(WORDS), "king", "crimson", "moon", "black", "[UNK]", "Lake", "e\u0301"]


def keras_cases():
    os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
    import numpy as np
    from keras import layers

    makers = {
        "lookup": lambda: layers.StringLookup(),
        "masked": lambda: layers.StringLookup(mask_token=""),
        "no index for unknown": lambda: layers.StringLookup(num_oov_indices=0),
        "three indices": lambda: layers.StringLookup(num_oov_indices=3),
        "masked, two indices": lambda: layers.StringLookup(num_oov_indices=2, mask_token="[M]"),
        "other name": lambda: layers.StringLookup(oov_token="<oov>"),
        "text": lambda: layers.TextVectorization(standardize=None, split=None),
    }
    for name, make in makers.items():
        layer = make()
        layer.adapt(WORDS)
        with tempfile.TemporaryDirectory() as folder:
            layer.save_assets(folder)
            text = Path(folder, "vocabulary.txt").read_text(encoding="utf-8")
        tokens = [str(token) for token in layer.get_vocabulary()]
        asked = list(dict.fromkeys(WORDS)) if name == "no index for unknown" else ASKED
        ids = np.asarray(layer(asked)).ravel().tolist()
        yield {"name": name, "text": text, "tokens": tokens, "asked": asked, "ids": ids}


def tokenizers_cases():
    from tokenizers import AddedToken, Tokenizer, models, normalizers

    vocab = {"[UNK]": 0, **{word: i for i, word in enumerate(dict.fromkeys(WORDS), 1)}}
    plain = Tokenizer(models.WordLevel(vocab, unk_token="[UNK]"))
    added = Tokenizer(models.WordLevel(vocab, unk_token="[UNK]"))
    added.add_tokens([AddedToken("king", normalized=False), "lake"])
    added.add_special_tokens(["[PAD]"])
    normal = Tokenizer(models.WordLevel(vocab, unk_token="[UNK]"))
    normal.normalizer = normalizers.Sequence([normalizers.NFC()])
    pieces = {"[UNK]": 0, "lake": 1, "##er": 2, "king": 3}
    merged = {**dict(zip("lake", range(1, 5), strict=True)), "<unk>": 0, "la": 5}
    scores = [("<s>", 0.0), ("<unk>", 0.0), ("lake", -1.5), ("l", -3.0)]
    cases = {
        "WordLevel": plain,
        "added tokens": added,
        "normal form": normal,
        "WordPiece": Tokenizer(models.WordPiece(pieces)),
        "BPE": Tokenizer(models.BPE(merged, [("l", "a")], unk_token="<unk>")),
        "Unigram": Tokenizer(models.Unigram(scores, 1, False)),
    }
    for name, tokenizer in cases.items():
        whole = [token for token in tokenizer.get_vocab() if token[:1] not in "[<#"]
        asked = sorted(whole) + (ASKED if name in ("WordLevel", "normal form") else [])
        ids = [tokenizer.encode(token).ids for token in asked]
        assert all(len(one) == 1 for one in ids), name
        yield {
            "name": name,
            "file": json.loads(tokenizer.to_str()),
            "asked": asked,
            "ids": [one[0] for one in ids],
        }


def main():
    name = sys.argv[1]
    cases = list({"keras": keras_cases, "tokenizers": tokenizers_cases}[name]())
    text = json.dumps(cases, indent=1, ensure_ascii=False)
    (HERE / f"vocabularies_{name}.json").write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
