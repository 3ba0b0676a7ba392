"""`python -m worker` is `primia-worker`."""

from worker.cli import main

main()
