"""The reports, reached through entry points."""
