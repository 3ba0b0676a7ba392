"""What masked sums cost, beside the cipher and beside others; run with `make bench-secagg`."""
