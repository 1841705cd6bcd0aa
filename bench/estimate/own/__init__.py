"""One's own machine: laws and stack factors fitted to its result files, and what a step will take there."""
