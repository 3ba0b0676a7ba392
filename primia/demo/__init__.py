"""A whole federation on one machine: real daemons, real certificates, synthetic or given films."""
