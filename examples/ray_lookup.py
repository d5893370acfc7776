"""Look the words of a data set up on many machines, with Ray Data.

    pip install 'shardwise[arrow]' 'ray[data]'
    python examples/ray_lookup.py novels words.parquet vectors

Each worker opens the table once; opening maps it and reads nothing, and workers of one machine
share its pages. The column `word` of the Parquet data set gets a column `vector` beside it.
"""

import sys

import numpy as np

from shardwise import Vectors


class LookUp:
    """What a worker holds."""

    def __init__(self, path: str) -> None:
        self.vectors = Vectors.open(path)

    def __call__(self, batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        words = [str(word) for word in batch["word"]]
        return batch | {"vector": self.vectors.lookup(words, unknown="zeros")}


def main(table: str, words: str, output: str, workers: int = 2) -> None:
    """Look up all words of a Parquet data set, and write it with their vectors.

    Args:
        table: a table directory with a vocabulary, at a path that all workers see.
        words: Parquet files with a column "word".
        output: the folder of the Parquet files that are made.
        workers: how many.
    """
    import ray  # here: workers of another engine use LookUp without it

    ray.init(num_cpus=workers + 2)  # those that read and write have theirs
    found = ray.data.read_parquet(words).repartition(4 * workers)
    made = found.map_batches(
        LookUp,
        fn_constructor_args=(table,),
        batch_size=4096,
        compute=ray.data.ActorPoolStrategy(size=workers),
    )
    made.write_parquet(output)


if __name__ == "__main__":
    main(*sys.argv[1:4])
