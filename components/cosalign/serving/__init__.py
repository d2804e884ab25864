"""The serving gateway: an OpenAI-compatible API under the config of whoever asks."""
