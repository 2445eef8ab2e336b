"""Embeddings of a task's clips by a model, and the cache that keeps them."""
