"""The fault suite of scripts/faults: what servers and commands do when clients, processes and disks misbehave."""
