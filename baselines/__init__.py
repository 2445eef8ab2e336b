"""The models: per model a card (NAME.toml) and an adapter (NAME.py), reached through entry points."""
