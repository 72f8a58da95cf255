"""Rewrites that the target's parser needs: each fires only where the table says that an operator is not taken."""
