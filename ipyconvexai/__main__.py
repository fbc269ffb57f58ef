"""``python -m ipyconvexai``: the same as ``ipyconvexai``."""

from ipyconvexai.cli import main

main(prog_name="ipyconvexai")
