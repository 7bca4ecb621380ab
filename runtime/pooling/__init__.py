"""Engines that embed or score: texts to token ids, steps of whole texts, and what becomes of their hidden states."""
