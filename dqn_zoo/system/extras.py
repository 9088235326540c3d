"""Packages that only some commands need, each named by an extra of this package."""

from importlib import import_module

from dqn_zoo.errors import UserError

MODULES = {
    "cluster": ("ray",),
    "completion": ("shtab",),
    "minari": ("minari", "h5py"),
    "onnx": ("onnx", "onnxscript", "onnxruntime"),
    "trackio": ("trackio",),
    "tune": ("optuna",),
    "wandb": ("wandb",),
    "watch": ("starlette", "uvicorn", "websockets"),
}
_TO_INSTALL = {"minari": "'minari[hdf5]'"}  # where it is not named as it is imported


def need(extra: str, what: str) -> None:
    """Import the packages of an extra, or say what to install.

    Args:
        extra: a key of `MODULES`.
        what: needs them, as the user knows it: a command, or a flag.

    Raises:
        UserError: one is missing or broken.
    """
    for module in MODULES[extra]:
        try:
            import_module(module)
        except Exception as error:  # a broken one may raise anything
            is_missing = isinstance(error, ModuleNotFoundError) and error.name == module
            why = "" if is_missing else f", which cannot be imported ({error})"
            packages = _TO_INSTALL.get(extra, " ".join(MODULES[extra]))
            raise UserError(
                f"{what} needs {module}{why}: pip install '.[{extra}]' in a clone, or pip "
                f"install {packages}"
            ) from error
