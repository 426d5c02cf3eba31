"""For tools that want a setup.py (Beam's `--setup_file`); everything is in pyproject.toml."""

from setuptools import setup

setup()
