"""The command line: parses arguments, calls the stages and prints results."""
