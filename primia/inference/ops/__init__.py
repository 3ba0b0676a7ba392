"""The operations of a program: for each, what the dealer gives and what both parties do."""
