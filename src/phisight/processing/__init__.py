"""Pictures and text to a `Prompt`: what the official processor does, bit for bit."""
