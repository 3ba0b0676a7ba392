"""Attacks and audits: what leaks through this study's own code path, measured and not promised."""
