"""What the tests of GPU kernels share: inputs, and how kernels are run."""
