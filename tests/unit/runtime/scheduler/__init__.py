"""Tests of the scheduler: what is computed when, and who may start."""
