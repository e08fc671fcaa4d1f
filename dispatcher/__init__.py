"""Keeps serverless invocations within the concurrency quota that their cloud account shares."""

__version__ = "0.1.0"
