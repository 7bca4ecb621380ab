"""The engine core: the loop that schedules, executes and publishes, and the thread that runs it."""
