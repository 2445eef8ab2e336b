"""Episodes, classifiers, statistics, metrics, health: pure functions."""
