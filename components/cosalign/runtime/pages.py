"""One look for every page that people open: the report, the data card, the map of a taxonomy.

A page is one file that loads no other, so that it may be opened from a bucket, a mail or KFP's
viewer, in a light or a dark theme. It needs jinja2, which not every image has: import this module
where a page is written, and nowhere else.
"""

from __future__ import annotations

from functools import cache
from importlib import resources

from jinja2 import Environment, FunctionLoader, StrictUndefined, Template
from markupsafe import Markup


@cache
def page_template(package: str, file: str) -> Template:
    """A page's template, with the common style as ``style`` and the filters for figures.

    Args:
        package: The package that holds it.
        file: Its file name there; it may import macros from others there.
    """
    files = resources.files(package)
    environment = Environment(
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        loader=FunctionLoader(lambda name: (files / name).read_text("utf-8")),
    )
    environment.filters |= {
        "count": count,
        "figure": figure,
        "share": share,
        "signed": signed,
        "words": words,
    }
    style = (resources.files("cosalign.runtime") / "page.css").read_text("utf-8")
    environment.globals["style"] = Markup(style)  # noqa: S704 - our own file
    return environment.get_template(file)


def count(value: float) -> str:
    """A count with its thousands apart."""
    return f"{value:,.0f}"


def figure(value: float | None) -> str:
    """A figure with three decimals; ``unknown`` for ``None``."""
    # z: what rounds to zero has no sign.
    return "unknown" if value is None else minus(f"{value:z.3f}")


def signed(value: float | None) -> str:
    """A difference with three decimals and its sign."""
    return "unknown" if value is None else minus(f"{value:+z.3f}")


def share(value: float | None) -> str:
    """A share as a percentage."""
    return "unknown" if value is None else f"{100 * value:.1f}\N{NO-BREAK SPACE}%"


def words(name: str) -> str:
    """An identifier as words; spaces also give long names of allowed sets places to wrap."""
    return name.replace("_", " ").replace("+", " + ")


def minus(text: str) -> str:
    """A figure with a typographic minus sign."""
    return text.replace("-", "\N{MINUS SIGN}")
