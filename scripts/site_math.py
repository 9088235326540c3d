"""Equations of the docs site as MathML, which browsers draw by themselves: no script, no network.

`mkdocs.yml` calls `as_mathml` for every block that is fenced as `math`.
"""

from typing import Any

from latex2mathml.converter import convert


def as_mathml(source: str, *_: Any, **__: Any) -> str:
    r"""Return the HTML of an equation.

    Args:
        source: the equation in LaTeX. The converter does not know `\arg\max` as one operator, and
            raises primes so far that fonts without a table for mathematics shrink them to a dot.
    """
    plain = source.replace(r"\arg\max", r"\text{arg max}").replace("'", "\N{PRIME}")
    return convert(plain, display="block")
