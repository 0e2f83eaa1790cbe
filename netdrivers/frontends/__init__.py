"""The front ends: each engine's own form to the model and back."""
