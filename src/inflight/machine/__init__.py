"""This machine: its cores and memory, its GPU, and what the system lets a process use of them."""
