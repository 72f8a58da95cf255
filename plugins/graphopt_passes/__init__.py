"""First-party passes of graphopt, shipped through the same door as everybody's: one module, one plugin."""
