"""Tests of the KV cache: the block pool, and blocks that are kept outside of it."""
