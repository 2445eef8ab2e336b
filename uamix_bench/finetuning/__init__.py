"""Training on a task's labels, and linear probes."""
