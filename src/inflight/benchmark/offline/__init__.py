"""An engine in this process: prefill and decode apart, each beside what the machine's limits allow."""
