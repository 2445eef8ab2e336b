"""Studies of many runs: ablations, and the paper's tables and figures."""
