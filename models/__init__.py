"""Networks, training, evaluation and the bundles they are released as. No network access, no database."""

import os

# torch's threads spin while they wait for each other. Beside a busy service that starves the very thread they wait for:
# two threads on two loaded cores trained 16 images a second spinning, 182 sleeping. Read once, when torch is loaded.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
