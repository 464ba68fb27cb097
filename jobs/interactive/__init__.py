"""A project's results in a notebook or a script: `open_project("shop.toml")`."""

from jobs.interactive.project import open_project

__all__ = ["open_project"]
