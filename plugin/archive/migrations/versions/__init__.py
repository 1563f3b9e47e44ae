"""One module per revision, r0001 first."""
