"""Models that other tools quantized: the numbers of a matrix from the several tensors that each method stores of it."""
