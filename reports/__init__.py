"""Reports, found through entry points."""
