"""Pages that carry their data in themselves."""

import json
import math
from typing import Any


def with_data(page: str, data: object) -> str:
    """Return a page with data in place of `__DATA__`, which stands alone in a script element.

    Nothing in the data can end that element.

    Args:
        page: HTML with `<script type="application/json">__DATA__</script>`.
        data: anything that JSON holds; numbers that are not finite become null.
    """
    text = json.dumps(_finite(data), allow_nan=False)
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return page.replace("__DATA__", text)


def _finite(data: Any) -> Any:
    match data:
        case dict():
            return {key: _finite(value) for key, value in data.items()}
        case list() | tuple():
            return [_finite(value) for value in data]
        case float() if not math.isfinite(data):
            return None
    return data
