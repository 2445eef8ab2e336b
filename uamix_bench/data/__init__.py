"""Sounds and the clip tables of tasks, own folders and lists, fetching and unpacking."""
