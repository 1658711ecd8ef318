"""Turn the words of the command line into a job and its plan."""
