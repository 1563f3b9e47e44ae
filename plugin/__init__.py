"""The service: doors, archive, jobs, routes, outbox and the command line."""
