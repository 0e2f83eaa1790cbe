"""The cluster room: which hosts a network spans, and what part of its subnet each of them owns."""
