"""Engines that were built before: found again by what they are made of."""
