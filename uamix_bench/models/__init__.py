"""The adapter's contract and its test suite, checkpoints, the shared encoder, and front ends."""
