"""What users of other servers type from memory, and what it means here: one table, read by whoever reads names."""
