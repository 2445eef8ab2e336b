"""Data sets: for each a card (NAME.toml) and a reader (NAME.py), found through entry points."""
