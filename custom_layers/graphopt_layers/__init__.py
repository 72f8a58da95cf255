"""First-party custom layers of graphopt."""
