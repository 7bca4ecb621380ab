"""From an engine directory to an executor: reading, verifying, sizing."""
