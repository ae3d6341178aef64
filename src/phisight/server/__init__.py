"""The OpenAI chat API over one loaded model."""
