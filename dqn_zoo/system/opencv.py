"""OpenCV, which needs system libraries that a server or a container may lack."""

from typing import Any

from dqn_zoo.errors import UserError


def import_cv2() -> Any:
    """Import OpenCV here and nowhere else.

    Raises:
        UserError: It is missing, or a system library that it needs is.
    """
    try:
        import cv2
    except ImportError as error:
        raise UserError(
            f"OpenCV does not load here ({error}): install the system libraries that it needs "
            "(Debian and Ubuntu: apt-get install libgl1 libglib2.0-0), or opencv-python-headless "
            "in place of opencv-python"
        ) from error
    return cv2
