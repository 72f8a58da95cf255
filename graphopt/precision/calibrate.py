METHODS = ("max", "percentile", "entropy", "mse")
