"""Options of the command line that several commands have, and what is said of those that there are not."""
