"""Networks, training, evaluation and the bundles they are released as. No network access, no database."""
