"""The picture of the console: its size, and what a crop leaves of it."""

from dqn_zoo.errors import UserError

SCREEN_ROWS, SCREEN_COLUMNS = 210, 160
"""Of all games but a few, which have more rows."""

Crop = tuple[int, int, int, int]
"""Rows and columns cut off before the resize: top, bottom, left, right."""


def crop_window(
    crop: Crop | None, *, height: int = SCREEN_ROWS, width: int = SCREEN_COLUMNS
) -> tuple[slice, slice]:
    """Return the rows and columns of the screen that are kept.

    Raises:
        UserError: Nothing would be left.
    """
    top, bottom, left, right = crop or (0, 0, 0, 0)
    if min(top, bottom, left, right) < 0 or top + bottom >= height or left + right >= width:
        raise UserError(
            f"crop is [top, bottom, left, right], none negative, and has to leave something of the "
            f"{height} rows and {width} columns; got {[top, bottom, left, right]}"
        )
    return slice(top, height - bottom), slice(left, width - right)
