"""The memory's ceiling: `ceiling.cpp`, compiled here and now and called through ctypes."""

import ctypes
import hashlib
import os
import subprocess
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from itertools import pairwise, product
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .environment import CACHE
from .harness import Case, Check, Contender, measure
from .machine import cpu_model

SOURCE = Path(__file__).with_suffix(".cpp")
COMPILE = (
    "-std=c++20", "-O3", "-march=native", "-mprefer-vector-width=512", "-ffp-contract=fast",
    "-shared", "-fPIC",
)  # fmt: skip
LINE = 64  # bytes, as the source has it
HINTS = {"T0": 3, "T1": 2}
DISTANCES = (16, 32, 64)


class Reader:
    """Reads the rows at `ids`, one thread per equal part of them, and adds up what it has read."""

    def __init__(self, array: NDArray[Any], ids: NDArray[np.int64], threads: int) -> None:
        if array.ndim != 2 or not array.flags.c_contiguous:
            raise ValueError("expected a contiguous array of rows")
        if ids.min() < 0 or ids.max() >= len(array):
            raise ValueError("ids are out of range")
        cuts = np.linspace(0, len(ids), threads + 1).astype(int)
        self.array = array.view(np.uint8)  # rows of bytes
        self.parts = [np.ascontiguousarray(ids[begin:end]) for begin, end in pairwise(cuts)]
        self.sums = [np.empty(LINE // 4, np.uint32) for _ in self.parts]
        self.pool = ThreadPoolExecutor(threads)

    def reading(self, ahead: int, hint: str) -> Callable[[], list[NDArray[np.uint32]]]:
        native = library()

        def read_part(ids: NDArray[np.int64], sums: NDArray[np.uint32]) -> None:
            addresses = (self.array.ctypes.data, ids.ctypes.data)
            native.read_rows(
                *addresses, len(ids), ahead, HINTS[hint], sums.ctypes.data, self.array.shape[1]
            )

        def read() -> list[NDArray[np.uint32]]:
            if len(self.parts) == 1:
                read_part(self.parts[0], self.sums[0])
            else:
                list(self.pool.map(read_part, self.parts, self.sums))
            return self.sums

        return read

    def check(self) -> Check:
        """Check the sums of the words in whole lines of the rows, and of the rows' last words."""
        whole = self.array.shape[1] // LINE * LINE
        expected = []
        for ids in self.parts:
            sums = np.zeros(LINE // 4, np.uint32)
            for begin in range(0, len(ids), 1 << 16):
                rows = self.array[ids[begin : begin + (1 << 16)]]
                lines = np.ascontiguousarray(rows[:, :whole]).view(np.uint32)
                sums += lines.reshape(-1, LINE // 4).sum(axis=0, dtype=np.uint32)
                if whole < rows.shape[1]:
                    last = np.ascontiguousarray(rows[:, -4:]).view(np.uint32)
                    sums[:1] += last.sum(axis=0, dtype=np.uint32)
            expected.append(sums)

        def check(found: list[NDArray[np.uint32]]) -> bool:
            return all(np.array_equal(a, b) for a, b in zip(found, expected, strict=True))

        return check


def best_contender(
    array: NDArray[Any], ids: NDArray[np.int64], threads: int, rounds: int = 5
) -> Contender | str:
    """Try each distance and hint; give the fastest, or say why there is none."""
    try:
        library()
    except OSError:
        return "no compiler"
    except subprocess.CalledProcessError:
        return "not compiled"  # the compiler has said why
    reader = Reader(array, ids, threads)
    contenders = [
        Contender(
            f"ceiling: {hint}, {ahead} ahead",
            "read_rows()",
            {"read_rows": reader.reading(ahead, hint)},
            reader.check(),
        )
        for ahead, hint in product(DISTANCES, HINTS)
    ]
    trial = measure(Case("the ceiling", contenders, contenders[0].name), rounds)
    return min(contenders, key=lambda contender: trial.samples[contender.name].median)


@cache
def library() -> ctypes.CDLL:
    compiler = os.environ.get("CXX", "c++")
    made_from = f"{SOURCE.read_text()}{compiler}{COMPILE}{cpu_model()}"
    built = CACHE / f"ceiling-{hashlib.sha256(made_from.encode()).hexdigest()[:16]}.so"
    if not built.exists():
        CACHE.mkdir(parents=True, exist_ok=True)
        unfinished = built.with_suffix(f".{os.getpid()}")
        subprocess.run([compiler, *COMPILE, str(SOURCE), "-o", str(unfinished)], check=True)
        unfinished.replace(built)
    native = ctypes.CDLL(str(built))
    native.read_rows.restype = None
    pointer, size = ctypes.c_void_p, ctypes.c_size_t
    native.read_rows.argtypes = [pointer, pointer, size, size, ctypes.c_int, pointer, size]
    native.multiply_add.restype = ctypes.c_float
    native.multiply_add.argtypes = [size, pointer]
    return native


def multiply_adds(seconds: float = 0.2) -> float | str:
    """Give how many fused multiplications and additions a core does a second; or why not."""
    try:
        native = library()
    except OSError:
        return "no compiler"
    except subprocess.CalledProcessError:
        return "not compiled"
    factors = np.full(32, 0.5, np.float32)
    rounds, best = 1 << 22, 0.0
    until = time.process_time() + seconds
    while time.process_time() < until:
        begun = time.process_time()
        native.multiply_add(rounds, factors.ctypes.data)
        best = max(best, rounds * 256 / (time.process_time() - begun + 1e-9))
    return best
