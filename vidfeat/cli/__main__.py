"""`python -m vidfeat.cli`: the command, where its script is not on the path."""

from vidfeat.cli import main

main()
