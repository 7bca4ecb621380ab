"""What compile workers run: Triton's passes, ptxas, and the record of the result."""
