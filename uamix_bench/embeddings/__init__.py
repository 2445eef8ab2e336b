"""Task and model to embeddings, and the cache that keeps them."""
