"""`python -m prompttune.cli`: the command, where its script is not on the path."""

from prompttune.cli import main

main()
