"""Uploads: no copy on the CPU, pinned and not waited for on a GPU."""

import numpy as np
import pytest
import torch

from dqn_zoo.system.devices import upload


def test_on_the_cpu_an_upload_shares_the_memory_of_the_array():
    array = np.arange(6, dtype=np.int32).reshape(2, 3)
    tensor = upload(array, torch.device("cpu"))
    array[1, 2] = 77
    assert tensor.tolist() == [[0, 1, 2], [3, 4, 77]]
    assert tensor.dtype == torch.int32


@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU here")
def test_on_a_gpu_arrays_may_change_as_soon_as_they_were_given():
    device, array = torch.device("cuda"), np.zeros(1_000_000, np.int64)
    tensors = []
    for number in range(20):
        array[:] = number
        tensors.append(upload(array, device))
    for number, tensor in enumerate(tensors):
        assert tensor.device.type == "cuda"
        assert int(tensor.min()) == int(tensor.max()) == number
