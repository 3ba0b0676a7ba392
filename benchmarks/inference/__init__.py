"""Encrypted inference, measured."""
