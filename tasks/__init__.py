"""The data sets: per data set a card (NAME.toml) and a reader (NAME.py), reached through entry points."""
