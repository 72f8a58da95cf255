"""Which tensor is computed and stored in which dtype, why, and the one pass that writes it into the graph."""
