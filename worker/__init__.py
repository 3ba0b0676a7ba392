"""The hospital's side: trains on its own films, charges its own ledger, dials out only."""
