"""What the senders of a study were asked about it, and what they answered."""

import sqlalchemy as sa
from alembic import op

revision = "r0008"
down_revision = "r0007"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "reconciliation",
        sa.Column(
            "study_instance_uid",
            sa.String(64),
            sa.ForeignKey("study.study_instance_uid", ondelete="CASCADE"),
            primary_key=True,
        ),
        sa.Column("destination", sa.String(256), primary_key=True),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("input_hash", sa.String(64), nullable=False),
        sa.Column("since", sa.Float(), nullable=False),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("next_attempt_at", sa.Float()),
        sa.Column("listed", sa.Integer(), nullable=False),
        sa.Column("fetched", sa.Integer(), nullable=False),
        sa.Column("missing", sa.Integer(), nullable=False),
        sa.Column("sentence", sa.Text(), nullable=False),
        sa.Column("updated_at", sa.Float(), nullable=False),
    )
    op.create_index("ix_reconciliation_next_attempt_at", "reconciliation", ["next_attempt_at"])


def downgrade() -> None:
    op.drop_table("reconciliation")
