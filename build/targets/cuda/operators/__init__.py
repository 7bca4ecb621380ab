"""From fused operators to launches."""
