"""An engine in this process: prefill and decode measured separately, each compared with the machine's limits."""
