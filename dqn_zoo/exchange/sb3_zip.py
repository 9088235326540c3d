"""A zip of Stable-Baselines3, read without running anything that is in it.

    data                         JSON; objects are pickles in base64, which stay closed
    policy.pth                   a zip of PyTorch: one pickle that may only build tensors, and bytes
    _stable_baselines3_version   text

Nothing else is opened. Whatever is unusual about a file is a reason to refuse it: sizes are bounded
before anything is read, and names, shapes and types of the weights are compared before they are
used. What loads the weights is a new zip made of the members that were checked, so that no
difference between two readers of zips can slip in other ones.
"""

import lzma
import pickletools
import re
import struct
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path, PurePosixPath
from typing import IO, Any

import torch
from torch import Tensor

from dqn_zoo.errors import UserError
from dqn_zoo.system.documents import checked, parse_json

LARGEST_FILE_BYTES = 2**28
LARGEST_DATA_BYTES = 2**24
LARGEST_WEIGHTS_BYTES = 2**26
_LARGEST_DIRECTORY_BYTES = 2**16  # a thousand members
_LARGEST_PICKLE_BYTES = 2**16  # 20 names and shapes take 4,000

LAYERS = {
    "features_extractor.cnn.0": "torso.layers.0",
    "features_extractor.cnn.2": "torso.layers.2",
    "features_extractor.cnn.4": "torso.layers.4",
    "features_extractor.linear.0": "head.layers.stream.hidden",
    "q_net.0": "head.layers.stream.output",
}
"""Our name of every layer of SB3's CnnPolicy, in the order of its parameters."""

ONLINE, TARGET = "q_net.", "q_net_target."
"""What the names of the two networks begin with."""

_MAY_BUILD = {"collections OrderedDict", "torch FloatStorage", "torch._utils _rebuild_tensor_v2"}
_NAMES_OBJECTS = {"GLOBAL", "STACK_GLOBAL", "INST", "EXT1", "EXT2", "EXT4"}  # opcodes of pickle
_KEEPS = {"PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE"}
_TAKES_AGAIN = {"GET", "BINGET", "LONG_BINGET"}
_MAKES_TUPLE = {"TUPLE", "TUPLE1", "TUPLE2", "TUPLE3"}
_NATURE_CNN = "<class 'stable_baselines3.common.torch_layers.NatureCNN'>"
_ONLY_DQN = "only agents of SB3's DQN with CnnPolicy and its own network can be read"


@dataclass(frozen=True, slots=True, kw_only=True)
class Sb3Model:
    """What a zip holds.

    Attributes:
        settings: attributes of SB3's object that are plain JSON, unchecked. Of a pickled object
            what SB3 writes beside the pickle is kept: texts and numbers.
        weights: float32, of the online network, by our names.
        num_actions: that it decides among.
        frame_stack: frames in one observation.
        version: of Stable-Baselines3; None where the zip does not say.
    """

    settings: dict[str, Any]
    weights: dict[str, Tensor]
    num_actions: int
    frame_stack: int
    version: str | None


def read_sb3_zip(file: Path) -> Sb3Model:
    """Read a zip that `DQN.save` of Stable-Baselines3 wrote.

    Raises:
        UserError: it is no such zip, was cut off or changed, or holds another kind of agent.
    """
    with _as_user_errors(str(file)):
        if not file.is_file():
            raise UserError(f"{file} does not exist, or is no file: expected a zip of SB3")
        if file.stat().st_size > LARGEST_FILE_BYTES:
            raise UserError(
                f"{file} has {file.stat().st_size:,} bytes, more than the {LARGEST_FILE_BYTES:,} "
                "that are read: an agent of DQN has some 27 million"
            )
        with file.open("rb") as stream, _open_zip(stream, str(file)) as archive:
            data = _read(archive, "data", LARGEST_DATA_BYTES, where=str(file))
            state = _read(archive, "policy.pth", LARGEST_WEIGHTS_BYTES, where=str(file))
            version = _read_version(archive, str(file))
    where = f"{file}: policy.pth"
    weights = _load_state(state, where)
    num_actions, frame_stack = _check_state(weights, where)
    settings = _read_settings(data, f"{file}: data")
    _check_policy(settings, str(file))
    return Sb3Model(
        settings=settings,
        weights=_online_weights(weights),
        num_actions=num_actions,
        frame_stack=frame_stack,
        version=version,
    )


def state_shapes(num_actions: int, frame_stack: int) -> dict[str, tuple[int, ...]]:
    """Return the shapes of the weights of SB3's CnnPolicy, without the prefix of a network."""
    weights = {
        "features_extractor.cnn.0": (32, frame_stack, 8, 8),
        "features_extractor.cnn.2": (64, 32, 4, 4),
        "features_extractor.cnn.4": (64, 64, 3, 3),
        "features_extractor.linear.0": (512, 3136),
        "q_net.0": (num_actions, 512),
    }
    shapes: dict[str, tuple[int, ...]] = {}
    for layer, shape in weights.items():
        shapes |= {f"{layer}.weight": shape, f"{layer}.bias": shape[:1]}
    return shapes


@contextmanager
def _as_user_errors(where: str) -> Iterator[None]:
    """Turn whatever a damaged zip makes its reader raise into one line."""
    try:
        yield
    except UserError:
        raise
    except (
        zipfile.BadZipFile, zlib.error, lzma.LZMAError, struct.error,
        OSError, EOFError, ValueError, OverflowError, RuntimeError,
    ) as error:  # fmt: skip
        raise UserError(f"{where} is damaged or no zip of Stable-Baselines3 ({error})") from error


@contextmanager
def _open_zip(stream: IO[bytes], where: str) -> Iterator[zipfile.ZipFile]:
    """Open a zip whose table of contents is small, whole and plain."""
    stream.seek(0, 2)
    stream.seek(max(stream.tell() - 98, 0))
    if _directory_bytes(stream.read(), where) > _LARGEST_DIRECTORY_BYTES:
        raise UserError(f"{where} lists more members than an agent has: not loaded")
    with zipfile.ZipFile(stream) as archive:
        _check_members(archive, where)
        yield archive


def _directory_bytes(end: bytes, where: str) -> int:
    """Return the size of a zip's table of contents, which Python's reader takes in whole.

    Args:
        end: the last 98 bytes: two records of a large zip, 56 and 20 bytes, and one of every zip.
        where: what to call the zip.
    """
    if end[-22:-18] != b"PK\5\6" or end[-2:] != b"\0\0":
        raise UserError(f"{where} is not a zip, or was cut off: expected what DQN.save writes")
    if end[-42:-38] == b"PK\6\7" and end[-98:-94] == b"PK\6\6":
        return int.from_bytes(end[-58:-50], "little")
    return int.from_bytes(end[-10:-6], "little")


def _check_members(archive: zipfile.ZipFile, where: str) -> None:
    members = archive.infolist()
    names = [member.orig_filename for member in members]
    for name in names:
        path = PurePosixPath(name)
        if path.is_absolute() or ".." in path.parts or any(bad in name for bad in "\\:\0"):
            raise UserError(f"{where} holds the path {name!r}, which leads elsewhere: not loaded")
        if names.count(name) > 1:
            raise UserError(f"{where} holds {name!r} more than once: not loaded")
    for member in members:
        if member.flag_bits & 1:
            raise UserError(f"{where}: {member.filename!r} is encrypted: not loaded")
    total = sum(member.file_size for member in members)
    if total > LARGEST_FILE_BYTES:
        raise UserError(
            f"{where} would unpack to {total:,} bytes, more than the {LARGEST_FILE_BYTES:,} that "
            "are read: not loaded"
        )


def _read(archive: zipfile.ZipFile, name: str, most_bytes: int, *, where: str) -> bytes:
    """Return one member, whatever size it claims, if it has at most so many bytes."""
    if name not in archive.namelist():
        raise UserError(f"{where} holds no {name!r}, as every zip of DQN.save does: {_ONLY_DQN}")
    with archive.open(name) as member:
        content = member.read(most_bytes + 1)
    if len(content) > most_bytes:
        raise UserError(f"{where}: {name!r} has more than {most_bytes:,} bytes: not loaded")
    return content


def _read_version(archive: zipfile.ZipFile, where: str) -> str | None:
    name = "_stable_baselines3_version"
    if name not in archive.namelist():
        return None
    text = _read(archive, name, 256, where=where).decode("ascii", errors="replace").strip()
    return text if re.fullmatch(r"[0-9][0-9A-Za-z.+-]{0,30}", text) else None


def _read_settings(data: bytes, where: str) -> dict[str, Any]:
    """Return the plain part of SB3's attributes; a pickle is left out without a look at it."""
    content = checked(parse_json(data, where, is_finite=False), dict[str, Any], where)
    return {name: _without_pickle(value) for name, value in content.items()}


def _without_pickle(value: Any) -> Any:
    match value:
        case {":serialized:": _}:
            return {key: item for key, item in value.items() if key != ":serialized:"}
    return value


def _check_policy(settings: Mapping[str, Any], where: str) -> None:
    """Refuse what changes the values of a network without changing its weights."""
    arguments = settings.get("policy_kwargs")
    if not isinstance(arguments, dict):
        return
    if arguments.get("normalize_images", True) not in (True, "True"):
        raise UserError(f"{where} does not divide pixels by 255 (normalize_images): {_ONLY_DQN}")
    extractor = arguments.get("features_extractor_class", _NATURE_CNN)
    if str(extractor) != _NATURE_CNN:
        raise UserError(f"{where} has a network of its own, {str(extractor)[:60]!r}: {_ONLY_DQN}")


def _load_state(content: bytes, where: str) -> dict[Any, Any]:
    """Return what policy.pth holds, built by nothing but the three functions of `_MAY_BUILD`."""
    if content[:4] != b"PK\3\4":
        raise UserError(
            f"{where} is not in the zip format of PyTorch 1.6 and later; the older one is a bare "
            "pickle and is not read: save the agent again with a current Stable-Baselines3"
        )
    with _as_user_errors(where):
        checked = _repacked(content, where)
    try:
        state = torch.load(checked, map_location="cpu", weights_only=True)
    except Exception as error:  # a crafted pickle can make its reader fail in any way
        first_line = (str(error).splitlines() or [type(error).__name__])[0]
        raise UserError(f"{where} cannot be loaded ({first_line}): not loaded") from error
    if not isinstance(state, dict):
        raise UserError(f"{where} holds {type(state).__name__}, expected weights by name")
    return dict(dict.items(state))  # a pickle can give an OrderedDict an `items` of its own


def _repacked(content: bytes, where: str) -> BytesIO:
    """Check the members of PyTorch's zip and return a new zip of just these."""
    repacked = BytesIO()
    with _open_zip(BytesIO(content), where) as archive, zipfile.ZipFile(repacked, "w") as copy:
        if sum(member.file_size for member in archive.infolist()) > LARGEST_WEIGHTS_BYTES:
            raise UserError(f"{where} would unpack to more bytes than it has: not loaded")
        for member in archive.infolist():
            if member.compress_type != zipfile.ZIP_STORED:
                raise UserError(
                    f"{where}: {member.filename!r} is compressed, which PyTorch never does and "
                    "which can hide any size: not loaded"
                )
            is_pickle = PurePosixPath(member.filename).suffix == ".pkl"
            most_bytes = _LARGEST_PICKLE_BYTES if is_pickle else LARGEST_WEIGHTS_BYTES
            part = _read(archive, member.filename, most_bytes, where=where)
            if is_pickle:
                _check_pickle(part, where)
            copy.writestr(member.filename, part)
    repacked.seek(0)
    return repacked


def _check_pickle(content: bytes, where: str) -> None:
    """Read a pickle as text, without running it, and refuse one that names anything else.

    A tuple that is taken twice is refused, too: one of two that are one of two, and so on, would
    take for ever to be made the key of a dict.
    """
    kept: set[int] = set()
    tuples: set[int] = set()
    is_tuple = False  # what was made last
    for opcode, argument, _ in pickletools.genops(content):
        if opcode.name in _KEEPS:
            place = len(kept) if argument is None else argument
            kept.add(place)
            tuples = tuples | {place} if is_tuple else tuples - {place}
        elif opcode.name in _TAKES_AGAIN and argument in tuples:
            raise UserError(f"{where} uses a tuple twice, which no weights need: not loaded")
        elif opcode.name not in ("PROTO", "FRAME"):
            is_tuple = opcode.name in _MAKES_TUPLE
        if opcode.name in _NAMES_OBJECTS and argument not in _MAY_BUILD:
            named = opcode.name if argument is None else str(argument)[:60].replace(" ", ".")
            raise UserError(
                f"{where} asks for {named!r}, which no weights need and which may run code: "
                "not loaded, and nothing was run"
            )


def _check_state(state: Mapping[Any, Any], where: str) -> tuple[int, int]:
    """Compare the weights with CnnPolicy's and return the numbers of actions and of frames."""
    _check_kind(state, where)
    num_actions = _first_size(state, f"{ONLINE}q_net.0.bias", axis=0)
    frame_stack = _first_size(state, f"{ONLINE}features_extractor.cnn.0.weight", axis=1)
    expected = {
        prefix + name: shape
        for prefix in (ONLINE, TARGET)
        for name, shape in state_shapes(num_actions, frame_stack).items()
    }
    different = sorted(map(str, expected.keys() ^ state.keys()))
    if different:
        known = "is missing" if different[0] in expected else "is not one of CnnPolicy's"
        raise UserError(f"{where}: {different[0][:80]!r} {known}: {_ONLY_DQN}")
    for name, shape in expected.items():
        _check_tensor(state[name], name, shape, where)
    return num_actions, frame_stack


def _check_kind(state: Mapping[Any, Any], where: str) -> None:
    """Name the kinds of agent that are often met and cannot be read."""
    kinds = {
        "quantile_net": "an agent of QR-DQN (sb3-contrib)",
        "action_net": "an agent of an algorithm other than DQN",
        "actor": "an agent of an algorithm other than DQN",
        f"{ONLINE}q_net.2": "a network with further layers (net_arch)",
    }
    for beginning, kind in kinds.items():
        if any(str(name).startswith(f"{beginning}.") for name in state):
            raise UserError(f"{where} holds {kind}: {_ONLY_DQN}")
    if not any(str(name).startswith(f"{ONLINE}features_extractor.cnn.") for name in state):
        raise UserError(f"{where} holds no network that sees pixels (MlpPolicy?): {_ONLY_DQN}")


def _first_size(state: Mapping[Any, Any], name: str, *, axis: int) -> int:
    """Return a size that the other shapes follow from; 1 where there is no such tensor."""
    tensor = state.get(name)
    shape = tensor.shape if isinstance(tensor, Tensor) else ()
    return int(shape[axis]) if len(shape) > axis else 1


def _check_tensor(tensor: Any, name: str, shape: tuple[int, ...], where: str) -> None:
    """Refuse whatever is not exactly the numbers that a weight of this name has."""
    if type(tensor) is not Tensor or tensor.layout != torch.strided:
        raise UserError(f"{where}: {name} is no plain tensor: not loaded")
    if tuple(tensor.shape) != shape or tensor.dtype != torch.float32:
        raise UserError(
            f"{where}: {name} is {tensor.dtype} {list(tensor.shape)}, expected torch.float32 "
            f"{list(shape)}: {_ONLY_DQN}"
        )
    has_own_bytes = tensor.untyped_storage().nbytes() == 4 * tensor.numel()
    if tensor.device.type != "cpu" or not tensor.is_contiguous() or not has_own_bytes:
        raise UserError(f"{where}: {name} does not hold as many bytes as its shape: not loaded")
    if not torch.isfinite(tensor).all():
        raise UserError(
            f"{where}: {name} holds numbers that are not finite: the training diverged, or the "
            "file was changed"
        )


def _online_weights(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {
        f"{ours}.{kind}": state[f"{ONLINE}{theirs}.{kind}"]
        for theirs, ours in LAYERS.items()
        for kind in ("weight", "bias")
    }
