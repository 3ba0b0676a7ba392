"""What a private step costs over a plain one, by engine and case; run with `make bench-dp`."""
