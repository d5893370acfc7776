"""Write TensorFlow's and Keras's own buckets and ids of unknown tokens to hashing.json.

Run it in an environment of its own, where `pip install tensorflow-cpu==2.21` was done:

    python tests/golden/make_hashing.py

Nothing else needs TensorFlow: test_hashing.py reads the file. The seed is fixed, so a second run
writes the same bytes. Tokens and answers are lists in the same order.
"""

import json
import os
import random
from pathlib import Path
from typing import Any

os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"

import keras
import numpy as np
import tensorflow as tf

SEED = 2021
NUM_TOKENS = 1000
NUM_BUCKETS = (1, 3, 1000, 2**31 - 1, 2**63 - 1)
KEYS = ((0x0123456789ABCDEF, 0x7EDCBA9876543210), (1, 2), (0, 0), (-1, -(2**63)))
# Bytes at which Fingerprint64 takes another way, and some between.
LENGTHS = (*range(70), 127, 128, 129, 191, 192, 193, 255, 256, 257, 1000, 1999, 2000)
ALPHABETS = ((0x20, 0x7E), (0xA1, 0x24F), (0x391, 0x3C9), (0x4E00, 0x9FA5), (0x1F300, 0x1F5FF))

KNOWN = ["emerson", "lake", "palmer", "king", "ÿ", "日本", "🦀", ""]
ASKED = [*KNOWN, "crimson", "tarkus", "black", "moon", "[UNK]", "emersoñ", "日本語", " king", "0"]
INTEGERS = [0, 7, -5, 42, 2**31, 2**63 - 1, -(2**63), 10]


def token_of(size: int, draw: random.Random) -> str:
    """Return a random token of `size` bytes of UTF-8."""
    token, left = "", size
    first, last = draw.choice(ALPHABETS)
    while left:
        char = chr(draw.randint(first, last))
        if len(char.encode()) > left:
            char = chr(draw.randint(0x20, 0x7E))
        token += char
        left -= len(char.encode())
    return token


def tokens() -> list[str]:
    draw = random.Random(SEED)
    sizes = list(LENGTHS)
    while len(sizes) < NUM_TOKENS:
        sizes.append(draw.randint(1, 2000) if draw.random() < 0.05 else draw.randint(1, 100))
    return [token_of(size, draw) for size in sizes]


def static_table(keys: list[Any], dtype: tf.DType, asked: list[Any], buckets: int) -> list[int]:
    values = tf.range(len(keys), dtype=tf.int64)
    initializer = tf.lookup.KeyValueTensorInitializer(tf.constant(keys, dtype), values)
    # Keys of int32 and int64 alike are hashed as their decimal digits.
    table = tf.lookup.StaticVocabularyTable(initializer, buckets)
    return answer(table.lookup(tf.constant(asked, dtype)))


def answer(ids: Any) -> list[int]:
    return [int(i) for i in np.asarray(ids)]


def main() -> None:
    words = tokens()
    fast = {n: answer(tf.strings.to_hash_bucket_fast(words, n)) for n in NUM_BUCKETS}
    strong = [
        {"key": key, "num_buckets": n, "buckets": answer(strong_buckets(words, n, key))}
        for key, n in zip(KEYS, (2**63 - 1, 1000, 2**63 - 1, 2**63 - 1), strict=True)
    ]
    static = [
        {"num_buckets": n, "ids": static_table(KNOWN, tf.string, ASKED, n)} for n in (1, 5, 100)
    ]
    integers = [
        {"num_buckets": n, "ids": static_table(INTEGERS[:3], tf.int64, INTEGERS, n)}
        for n in (1, 1000)
    ]
    layouts = []
    for mask in (None, ""):
        for slots in (1, 2, 5):
            layer = keras.layers.StringLookup(
                vocabulary=KNOWN[:-1], mask_token=mask, num_oov_indices=slots
            )
            ids = answer(layer(tf.constant(ASKED)))
            layouts.append({"mask_token": mask, "num_oov_indices": slots, "ids": ids})
    golden = {
        "tensorflow": tf.__version__,
        "keras": keras.__version__,
        "tokens": words,
        "fast": fast,
        "strong": strong,
        "known": KNOWN,
        "asked": ASKED,
        "static_vocabulary_table": static,
        "integers": INTEGERS,
        "integer_table": integers,
        "keras_string_lookup": layouts,
    }
    path = Path(__file__).parent / "hashing.json"
    lines = [f"{json.dumps(k)}: {json.dumps(v, ensure_ascii=False)}" for k, v in golden.items()]
    path.write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="utf-8")


def strong_buckets(words: list[str], num_buckets: int, key: tuple[int, int]) -> Any:
    return tf.strings.to_hash_bucket_strong(words, num_buckets, list(key))


if __name__ == "__main__":
    main()
