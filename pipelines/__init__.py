"""In which order: from data sets to run folders, and the command line over it."""
