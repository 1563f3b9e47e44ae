"""What was received: bytes on disk, an index over them, and the quarantine of what was refused."""
