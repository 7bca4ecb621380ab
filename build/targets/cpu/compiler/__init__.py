"""From C source to a shared library for each CPU level."""
