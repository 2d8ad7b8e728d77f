"""The operator's command line: what is going on, what would happen, and the few things that a person may order."""
