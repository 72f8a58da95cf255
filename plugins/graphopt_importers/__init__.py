"""Ways in for models of other frameworks, one module each."""
