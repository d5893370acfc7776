"""Tensors of the CPU as arrays and back, without a copy."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from shardwise._errors import IdTypeError, OptionError, TableError
from shardwise._update import TRAINED

if TYPE_CHECKING:
    from numpy.typing import NDArray


_through_torch = False  # tests set it, to run on the CPU what other devices run


def is_native(tensor: Any) -> bool:
    """Whether the kernels read this memory; torch's operations do what they do not."""
    return tensor.device.type == "cpu" and not _through_torch


def check_device(tensor: Any, name: str) -> None:
    """Refuse what does not lie in the memory of the CPU.

    Raises:
        OptionError: it lies on another device.
    """
    if tensor.device.type != "cpu":
        raise OptionError(
            f"expected {name} on the CPU, got {tensor.device}: rows are read and trained there; "
            f"pass {name}.cpu(), and move the result"
        )


def as_array(tensor: Any, name: str) -> NDArray[Any]:
    """Return a tensor as an array of the same memory; bfloat16 as that of ml_dtypes.

    Raises:
        OptionError: it lies on another device, or has no numbers.
    """
    check_device(tensor, name)
    tensor = tensor.detach() if tensor.requires_grad else tensor
    small = tensor.dtype == torch.bfloat16
    try:
        array = _numbers(tensor.view(torch.int16) if small else tensor)
    except (RuntimeError, TypeError, BufferError) as error:
        raise OptionError(
            f"expected {name} as a tensor whose numbers can be read, got one that cannot: {error}"
        ) from None
    if not small:
        return array
    import ml_dtypes

    return array.view(ml_dtypes.bfloat16)


def _numbers(tensor: Any) -> NDArray[Any]:
    try:
        array: NDArray[Any] = tensor.numpy()
    except RuntimeError:  # within torch.func, which wraps what is made there
        functorch = torch._C._functorch
        while functorch.is_gradtrackingtensor(tensor):
            tensor = functorch.get_unwrapped(tensor)
        array = np.from_dlpack(tensor)
    return array


def as_tensor(array: NDArray[Any]) -> Any:
    """Return an array as a tensor of the same memory."""
    if array.dtype.name != "bfloat16":
        return torch.from_numpy(array)
    return torch.from_numpy(array.view(np.int16)).view(torch.bfloat16)


def as_ids(ids: Any, name: str = "input", device: Any = None) -> Any:
    """Return ids as a tensor of integers.

    Args:
        ids: that, or what torch makes a tensor of.
        name: of the argument.
        device: where they must lie; None for anywhere.

    Raises:
        IdTypeError: they are no integers.
        OptionError: they lie on another device.
    """
    if not isinstance(ids, torch.Tensor):
        try:
            ids = torch.as_tensor(ids, device=device)
        except (TypeError, ValueError, RuntimeError) as error:
            raise IdTypeError(
                f"expected {name} as a tensor of integers, got {type(ids).__name__} ({error})"
            ) from None
        if ids.numel() == 0 and ids.dtype == torch.get_default_dtype():
            ids = ids.long()  # what torch makes of an empty list
    if ids.dtype.is_floating_point or ids.dtype.is_complex or ids.dtype == torch.bool:
        raise IdTypeError(
            f"expected {name} of an integer dtype, got {ids.dtype} (shape {tuple(ids.shape)})"
        )
    if device is not None and ids.device != device:
        raise OptionError(
            f"expected {name} on the device of the rows, {device}, got {ids.device}; "
            f"pass {name}.to({str(device)!r})"
        )
    return ids


def dtype_of(dtype: Any) -> np.dtype[Any]:
    """Return the dtype of arrays for one of torch's.

    Raises:
        TableError: rows of it cannot be trained.
    """
    name = str(dtype).removeprefix("torch.")
    if not isinstance(dtype, torch.dtype) or name not in TRAINED:
        raise TableError(f"expected a dtype of {', '.join(TRAINED)}, got {dtype}")
    if dtype == torch.bfloat16:
        import ml_dtypes

        name = ml_dtypes.bfloat16
    found: np.dtype[Any] = np.dtype(name)
    return found
