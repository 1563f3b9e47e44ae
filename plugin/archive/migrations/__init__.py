"""Alembic's folder: how an index of an older release becomes one of this release."""
