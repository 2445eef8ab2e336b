"""Ablations, and the paper's tables and figures."""
