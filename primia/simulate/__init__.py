"""A whole study in one process: the product's own machines, and no socket."""
