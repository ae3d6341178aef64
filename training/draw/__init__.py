"""Synthetic pictures with questions about them and their answers."""
