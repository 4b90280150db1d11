"""The version of both packages; `pyproject.toml` and `CITATION.cff` say the same, which a test pins."""

__version__ = "0.1.0"
