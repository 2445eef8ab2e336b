"""Places where jobs run: this process, or a distributed engine."""
