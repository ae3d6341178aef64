"""`python -m phisight`."""

from phisight.cli.main import main

main()
