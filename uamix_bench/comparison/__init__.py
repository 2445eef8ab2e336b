"""Comparison of results: verdicts, ranks and gates."""
