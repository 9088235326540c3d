"""Networks without numbers, for their shapes alone; and what shapes tell of a network."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from dqn_zoo.networks.heads import HeadSettings
from dqn_zoo.networks.network import NetworkSettings, QNetwork, build_network

WIDEST_ON_CPU = 4
"""As a multiple of the IMPALA network's channels; one example goes through it in milliseconds."""

_FILLING = {Tensor.normal_, Tensor.uniform_, Tensor.erfinv_, Tensor.fill_, Tensor.zero_}


def network_of_shapes(settings: NetworkSettings, *, num_actions: int) -> QNetwork:
    """Build a network whose weights take no memory, however many actions and outputs it has.

    Its weights are never written, and memory that is never written is none. Where computing with
    them would take long, they lie on PyTorch's device `meta`, which costs the import of a compiler:
    0.5 to 3 s.

    Raises:
        RuntimeError: sizes beyond what a tensor can have.
        TypeError: as well.
    """
    is_heavy = settings.spectral_norm or settings.width > WIDEST_ON_CPU
    undrawn = replace(settings, he_init=False)
    with torch.device("meta" if is_heavy else "cpu"), _Undrawn():
        return build_network(undrawn, num_actions=num_actions, seed=0)


def count_actions(settings: HeadSettings, shapes: Mapping[str, Sequence[int]]) -> int | None:
    """Return the number of actions that weights of these shapes, by name, decide among.

    Returns:
        None if the weights are not those of such a network.
    """
    stream = "advantage" if settings.dueling else "stream"
    shape = shapes.get(f"head.layers.{stream}.output.bias", ())
    if len(shape) != 1:
        return None
    num_actions, rest = divmod(shape[0], settings.kind.num_outputs(settings))
    return None if rest else num_actions


class _Undrawn(TorchFunctionMode):
    """Leaves weights as they lie in memory."""

    def __torch_function__(
        self,
        function: Callable[..., Any],
        types: object,
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        given = dict(kwargs or {})
        if function in _FILLING:
            return args[0]
        if getattr(function, "__module__", None) == nn.init.__name__:
            return given["tensor"]
        return function(*args, **given)
