"""Verdicts between results, ranks, gates."""
