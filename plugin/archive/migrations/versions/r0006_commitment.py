"""Storage commitment both ways, and the encoding of results."""

import sqlalchemy as sa
from alembic import op

revision = "r0006"
down_revision = "r0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "commitment",
        sa.Column("transaction_uid", sa.String(64), primary_key=True),
        sa.Column("destination", sa.String(256), nullable=False),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("asked_at", sa.Float(), nullable=False),
        sa.Column("reported_at", sa.Float()),
    )
    op.create_index("commitment_waiting", "commitment", ["destination", "state"])
    op.create_table(
        "commitment_owed",
        sa.Column("id", sa.Integer(), primary_key=True),
        sa.Column("transaction_uid", sa.String(64), nullable=False),
        sa.Column("peer", sa.String(16), nullable=False),
        sa.Column("asked_for", sa.JSON(), nullable=False),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("next_attempt_at", sa.Float()),
        sa.Column("last_error", sa.Text(), nullable=False),
        sa.Column("asked_at", sa.Float(), nullable=False),
        sa.Column("updated_at", sa.Float(), nullable=False),
        sa.UniqueConstraint("peer", "transaction_uid"),
    )
    op.create_index("ix_commitment_owed_next_attempt_at", "commitment_owed", ["next_attempt_at"])
    op.add_column("outbox", sa.Column("commitment", sa.String(16), nullable=False, server_default=""))
    op.add_column("outbox", sa.Column("transaction_uid", sa.String(64)))
    op.create_index("ix_outbox_transaction_uid", "outbox", ["transaction_uid"])
    op.add_column("result", sa.Column("encoding", sa.String(32), nullable=False, server_default=""))


def downgrade() -> None:
    op.drop_column("result", "encoding")
    op.drop_index("ix_outbox_transaction_uid", "outbox")
    op.drop_column("outbox", "transaction_uid")
    op.drop_column("outbox", "commitment")
    op.drop_table("commitment_owed")
    op.drop_table("commitment")
