"""What tombstones keep in the index."""

import sqlalchemy as sa
from alembic import op

revision = "r0007"
down_revision = "r0006"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "deletion",
        sa.Column("id", sa.Integer(), primary_key=True),
        sa.Column("level", sa.String(16), nullable=False),
        sa.Column("study_instance_uid", sa.String(64), nullable=False),
        sa.Column("series_instance_uid", sa.String(64), nullable=False),
        sa.Column("sop_instance_uid", sa.String(64), nullable=False),
        sa.Column("at", sa.Float(), nullable=False),
        sa.Column("by", sa.String(256), nullable=False),
        sa.Column("why", sa.Text(), nullable=False),
        sa.Column("models", sa.JSON(), nullable=False),
    )
    op.create_index("ix_deletion_study_instance_uid", "deletion", ["study_instance_uid"])
    op.create_table(
        "tombstone",
        sa.Column("id", sa.Integer(), primary_key=True),
        sa.Column("deletion_id", sa.Integer(), sa.ForeignKey("deletion.id", ondelete="CASCADE"), nullable=False),
        sa.Column("storage_key", sa.String(128), nullable=False),
        sa.Column("sop_instance_uid", sa.String(64), nullable=False),
        sa.Column("is_swept", sa.Boolean(), nullable=False),
    )
    op.create_index("ix_tombstone_deletion_id", "tombstone", ["deletion_id"])
    op.create_index("ix_tombstone_storage_key", "tombstone", ["storage_key"])
    op.create_index("ix_tombstone_sop_instance_uid", "tombstone", ["sop_instance_uid"])
    # What is still to be swept is asked for at each start; it is empty but after a kill.
    op.create_index("tombstone_unswept", "tombstone", ["id"], sqlite_where=sa.text("is_swept = 0"))


def downgrade() -> None:
    op.drop_table("tombstone")
    op.drop_table("deletion")
