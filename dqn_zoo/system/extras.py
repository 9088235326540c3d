"""Packages that only some commands need, each named by an extra of this package."""

from importlib import import_module

from dqn_zoo.errors import UserError

_NEWEST_OF_UVICORN = "uvicorn.protocols.websockets.websockets_sansio_impl"

MODULES = {
    "cluster": ("ray",),
    "completion": ("shtab",),
    "minari": ("minari", "h5py"),
    "onnx": ("onnx", "onnxscript", "onnxruntime"),
    "trackio": ("trackio",),
    "tune": ("optuna.storages.journal",),
    "wandb": ("wandb",),
    "watch": ("starlette", _NEWEST_OF_UVICORN, "websockets"),
}
"""What is imported, by extra: of a package the part that its older releases lack, if it is used."""

_TO_INSTALL = {"minari": "'minari[hdf5]'"}  # where it is not named as it is imported


def need(extra: str, what: str) -> None:
    """Import the packages of an extra, or say what to install.

    Args:
        extra: a key of `MODULES`.
        what: needs them, as the user knows it: a command, or a flag.

    Raises:
        UserError: one is missing, broken or too old.
    """
    packages = [module.partition(".")[0] for module in MODULES[extra]]
    for module in (*packages, *MODULES[extra]):  # one that is missing before one that lacks it
        package = module.partition(".")[0]
        try:
            import_module(module)
        except Exception as error:  # a broken one may raise anything
            is_missing = isinstance(error, ModuleNotFoundError) and error.name == package
            why = "" if is_missing else f", which cannot be imported ({error})"
            raise UserError(
                f"{what} needs {package}{why}: pip install '.[{extra}]' in a clone, or pip "
                f"install {_TO_INSTALL.get(extra, ' '.join(packages))}"
            ) from error
