"""The executor of the null target: no model; for tests of schedulers and servers."""
