"""Requests of token ids and encoded images in, token ids out."""
