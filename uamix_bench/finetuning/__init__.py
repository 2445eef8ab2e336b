"""Supervised training: fine-tuning on a task's labels, and linear probes."""
