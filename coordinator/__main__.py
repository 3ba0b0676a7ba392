"""`python -m coordinator` is `primia-coordinator`."""

from coordinator.cli import main

main()
