"""`python -m primia` is `primia`."""

from primia.cli.main import main

main()
