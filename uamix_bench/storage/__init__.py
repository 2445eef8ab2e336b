"""Shards of bytes by key, and digests of files."""
