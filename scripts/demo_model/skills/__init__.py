"""What the second stage of the training teaches: calls of tools, what to make of their results, and answers as JSON."""
