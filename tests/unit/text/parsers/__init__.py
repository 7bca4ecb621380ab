"""Tests of the parts of chat answers."""
