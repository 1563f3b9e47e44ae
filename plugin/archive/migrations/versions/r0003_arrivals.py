"""What fast ingest keeps in the index: whether there are pixels; their hash is made when two objects are compared."""

import sqlalchemy as sa
from alembic import op

revision = "r0003"
down_revision = "r0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("instance", sa.Column("has_pixels", sa.Boolean(), nullable=False, server_default=sa.false()))
    op.execute("UPDATE instance SET has_pixels = (pixel_hash != '')")
    op.drop_column("instance", "pixel_hash")
    op.drop_column("instance_version", "pixel_hash")


def downgrade() -> None:
    # An empty hash says that there are no pixels, so objects with pixels would be told apart by their headers alone.
    for table in ("instance", "instance_version"):
        op.add_column(table, sa.Column("pixel_hash", sa.String(64), nullable=False, server_default=""))
    op.drop_column("instance", "has_pixels")
