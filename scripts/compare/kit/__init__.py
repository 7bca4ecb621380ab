"""One folder that tries and measures the cuda target on a machine with a GPU and without a package registry."""
