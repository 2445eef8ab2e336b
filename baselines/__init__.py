"""Baseline models: for each a card (NAME.toml) and an adapter (NAME.py), found through entry points."""
