"""Durable work: what a complete study asks for, who does it, and what is owed to destinations."""
