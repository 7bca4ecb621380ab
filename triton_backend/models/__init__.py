"""Several engines behind one port: which model a request is for, their memory, loading and unloading."""
