"""What a machine without a network installs from: wheels, digests, units, examples, README."""
