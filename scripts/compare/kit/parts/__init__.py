"""What a kit does on the machine with the GPU, part by part; start.py runs each in a process of its own."""
