"""`python -m plugin.cli` is `mirall`."""

from plugin.cli import main

main()
