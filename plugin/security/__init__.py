"""Who may do what at our doors, and the encryption of what passes through them (promise 8)."""
