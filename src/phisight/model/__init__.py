"""The Phi-3-V network: plain modules under the checkpoint's own names, and their weights."""
