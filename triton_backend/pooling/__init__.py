"""The Triton model of engines that embed or score."""
