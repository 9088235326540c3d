"""Pages that carry their data in themselves."""

import json


def with_data(page: str, data: object) -> str:
    """Return a page with data in place of `__DATA__`, which stands alone in a script element.

    Nothing in the data can end that element.

    Args:
        page: HTML with `<script type="application/json">__DATA__</script>`.
        data: anything that JSON holds; no NaN.
    """
    text = json.dumps(data, allow_nan=False)
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return page.replace("__DATA__", text)
