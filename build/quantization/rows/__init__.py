"""Forms of rounded rows: what a product's activations become before it, written into a network and found there."""
