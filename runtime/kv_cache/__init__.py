"""The paged KV cache: blocks, block tables, prefix caching, and how many blocks fit."""
