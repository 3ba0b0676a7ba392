"""Both sides of an aggregation round as machines without I/O, and the messages between them."""
