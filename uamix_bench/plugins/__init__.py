"""Cards, the facts of models and tasks as data, and the registry of entry points. Free of torch."""
