"""From numpy to the learner's device, in the layout that it computes in."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dqn_zoo.system.opencv import import_cv2


def most_exact(device: torch.device) -> torch.dtype:
    """Return the most exact floating point of a device: float64, which Apple's GPU lacks."""
    return torch.float32 if device.type == "mps" else torch.float64


def upload(array: NDArray[np.generic], device: torch.device) -> Tensor:
    """Return an array as a tensor on a device; a copy to a CUDA GPU is not waited for.

    On the CPU the tensor shares the array's memory. For CUDA the array is copied into pinned
    memory first, from where the GPU fetches it while Python goes on; the array may be changed at
    once. Nothing here keeps or reuses that memory: PyTorch's cache of pinned memory hands a block
    out again only after the copy from it has finished.

    Args:
        array: any shape and kind of number; float64 becomes what the device has.
        device: where the tensor is wanted.
    """
    tensor = torch.from_numpy(array)
    if tensor.dtype == torch.float64:
        tensor = tensor.to(most_exact(device))
    if device.type != "cuda" or array.size == 0:
        return tensor.to(device)
    return tensor.pin_memory().to(device, non_blocking=True)


def channels_last(observation: Tensor) -> Tensor:
    """Return the same pixels, laid out as the convolutions take them.

    Bytes are cheaper to rearrange than floats, and need it once for two networks; OpenCV takes a
    seventh of the time that PyTorch takes on a CPU.

    Args:
        observation: uint8 [batch, stack, 84, 84] of any layout; not changed.

    Returns:
        uint8 [batch, stack, 84, 84], strided as `torch.channels_last`.
    """
    if observation.device.type != "cpu":
        return observation.contiguous(memory_format=torch.channels_last)
    batch, stack, height, width = observation.shape
    planes = observation.flatten(2).numpy()
    # [batch, pixels, stack]
    pixels = import_cv2().merge([planes[:, frame] for frame in range(stack)])
    return torch.from_numpy(pixels).view(batch, height, width, stack).permute(0, 3, 1, 2)


def let_cuda_be_fast(device: str) -> None:
    """Let PyTorch choose its kernels on a GPU for speed; on a CPU nothing changes."""
    if device == "cuda":
        # Tried out once per shape: cuDNN's own choice can take twice as long for few channels.
        torch.backends.cudnn.benchmark = True
        # What PyTorch does in convolutions anyway: multiply float32 with 10 bits of mantissa.
        torch.backends.cuda.matmul.allow_tf32 = True
