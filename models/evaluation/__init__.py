"""What a model is worth: every figure with a patient-bootstrap interval, beside a trivial baseline."""
