"""The adapter's contract, checkpoints, the shared encoder, front ends, the contract suite."""
