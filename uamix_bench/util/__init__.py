"""Errors, files, text, progress and threads: known to every room, knowing none."""
