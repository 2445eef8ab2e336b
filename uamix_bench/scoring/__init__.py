"""Episodes, classifiers, statistics, metrics and embedding health, as pure functions."""
