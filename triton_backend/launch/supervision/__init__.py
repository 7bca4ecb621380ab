"""Keeping the processes of a server alive, and leaving nothing of them behind."""
