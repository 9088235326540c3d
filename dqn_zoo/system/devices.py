"""From numpy to the learner's device."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


def upload(array: NDArray[np.generic], device: torch.device) -> Tensor:
    """Return an array as a tensor on a device; a copy to a GPU is not waited for.

    On the CPU the tensor shares the array's memory. Otherwise the array is copied into pinned
    memory first, from where the GPU fetches it while Python goes on; the array may be changed at
    once. Nothing here keeps or reuses that memory: PyTorch's cache of pinned memory hands a block
    out again only after the copy from it has finished.

    Args:
        array: any shape and kind of number.
        device: where the tensor is wanted.
    """
    tensor = torch.from_numpy(array)
    if device.type == "cpu" or array.size == 0:
        return tensor.to(device)
    return tensor.pin_memory().to(device, non_blocking=True)
