"""The other libraries: imported if they are installed, told how many threads they may use."""

import importlib
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Peers:
    torch: Any | None
    tensorflow: Any | None


def load(threads: int) -> Peers:
    torch = imported("torch")
    if torch is not None:
        torch.set_num_threads(threads)
        torch.set_num_interop_threads(threads)
    tensorflow = imported("tensorflow")
    if tensorflow is not None:
        threading = tensorflow.config.threading
        threading.set_intra_op_parallelism_threads(threads)
        threading.set_inter_op_parallelism_threads(threads)
        # An eager operation on the CPU has finished when its call returns, so timing the call
        # times the work: true only in this mode, which is TensorFlow's default.
        if not tensorflow.config.experimental.get_synchronous_execution():
            raise RuntimeError("TensorFlow's eager execution is asynchronous: times would be wrong")
    return Peers(torch, tensorflow)


def imported(name: str) -> Any | None:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name != name:
            raise
        return None


def quiet_environment(threads: int) -> dict[str, str]:
    """Give the variables that must be set before the libraries are loaded."""
    count = str(threads)
    return {
        "OMP_NUM_THREADS": count,
        "MKL_NUM_THREADS": count,
        "OPENBLAS_NUM_THREADS": count,
        "SHARDWISE_NUM_THREADS": count,
        "CUDA_VISIBLE_DEVICES": "",
        "TF_CPP_MIN_LOG_LEVEL": "2",
    }
