"""What quantized weights lose on SmolLM2, here and elsewhere: the same windows, the same tokens to calibrate on."""
