"""Synthesis: prompts are read and labelled, configs drawn, candidate responses generated."""
