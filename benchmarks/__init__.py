"""Measurements side by side with other people's work; run with `make bench`."""
