"""The worklist: workitems of others, subscriptions, and what there is to report."""

import sqlalchemy as sa
from alembic import op

revision = "r0005"
down_revision = "r0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "workitem",
        sa.Column("uid", sa.String(64), primary_key=True),
        sa.Column("state", sa.String(16)),
        sa.Column("transaction_uid", sa.String(64)),
        sa.Column("job_id", sa.String(32), unique=True),
        sa.Column("attributes", sa.JSON(), nullable=False),
        sa.Column("created_at", sa.Float(), nullable=False),
        sa.Column("updated_at", sa.Float(), nullable=False),
        sa.Column("ended_at", sa.Float()),
        sa.Column("deleted_at", sa.Float()),
    )
    op.create_index("ix_workitem_state", "workitem", ["state"])
    op.create_index("ix_workitem_created_at", "workitem", ["created_at"])
    op.create_table(
        "workitem_subscription",
        sa.Column("aetitle", sa.String(16), primary_key=True),
        sa.Column("target", sa.String(64), primary_key=True),
        sa.Column("deletion_lock", sa.Boolean(), nullable=False),
        sa.Column("filter", sa.JSON(), nullable=False),
        sa.Column("excluded", sa.Boolean(), nullable=False),
        sa.Column("created_at", sa.Float(), nullable=False),
        sa.Column("suspended_at", sa.Float()),
    )
    op.create_table(
        "workitem_event",
        sa.Column("id", sa.Integer(), primary_key=True),
        sa.Column("uid", sa.String(64), nullable=False),
        sa.Column("kind", sa.Integer(), nullable=False),
        sa.Column("body", sa.JSON(), nullable=False),
        sa.Column("receiver", sa.String(16), nullable=False),
        sa.Column("at", sa.Float(), nullable=False),
        sqlite_autoincrement=True,
    )


def downgrade() -> None:
    for table in ("workitem_event", "workitem_subscription", "workitem"):
        op.drop_table(table)
