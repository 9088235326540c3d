"""Reading back what was saved: models of JSON, and unpacking that ends at a size known before."""

import zlib
from typing import Annotated, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from dqn_zoo.system.documents import place_of

Count = Annotated[int, Field(ge=0, lt=2**63)]
Finite = Annotated[float, Field(allow_inf_nan=False)]


class Saved(BaseModel):
    """A part of a state, as JSON holds it; keys that later versions add are let through."""

    model_config = ConfigDict(strict=True, frozen=True)

    @classmethod
    def read(cls, content: object) -> Self:
        """Return a part that is what it should be.

        Raises:
            ValueError: it is not; one line.
        """
        try:
            return cls.model_validate(content)
        except ValidationError as error:
            problem = error.errors(include_url=False, include_context=False, include_input=False)[0]
            where = place_of(problem)
            raise ValueError(f"{where}: {problem['msg']}" if where else problem["msg"]) from error


def require(holds: bool, where: str, value: object) -> None:
    """Refuse a number that contradicts others.

    Raises:
        ValueError: it does.
    """
    if not holds:
        raise ValueError(f"{where}: {value!r:.60} contradicts the rest of the checkpoint")


def unpack(content: bytes, most_bytes: int, name: str) -> bytes:
    """Decompress at most so many bytes.

    Raises:
        ValueError: there are more, or it is not what zlib wrote.
    """
    unpacker = zlib.decompressobj()
    try:
        unpacked = unpacker.decompress(content, most_bytes + 1)
    except zlib.error as error:
        raise ValueError(f"{name} cannot be unpacked: {error}") from error
    if len(unpacked) > most_bytes:
        raise ValueError(f"{name} unpacks to more than the {most_bytes:,} bytes it should have")
    if not unpacker.eof:
        raise ValueError(f"{name} is cut off")
    return unpacked
