"""Encrypted prediction: a film's answer without showing the film or the model."""
