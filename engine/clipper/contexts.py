"""Contexts: whose query it is, where a policy treats each user or session for itself."""

from typing import SupportsIndex

Context = str | bytes | SupportsIndex | tuple[str | bytes | SupportsIndex, ...]
"""A user's or session's name: text, bytes, an integer, or a tuple of those."""
