"""The release, for images and for the names of pipeline versions.

A constant and not read from the installed distribution: images hold none, and its metadata may be
stale in a checkout. A test holds it equal to ``pyproject.toml``.
"""

VERSION = "0.1.0"
