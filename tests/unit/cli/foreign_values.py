"""Values of other servers' flags that are more than a word."""

from __future__ import annotations

# vLLM's overrides of Qwen3-Reranker.
OVERRIDES = '{"classifier_from_token":["no","yes"],"is_original_qwen3_reranker":true}'
