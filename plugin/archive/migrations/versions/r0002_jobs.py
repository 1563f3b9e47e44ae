"""Jobs, their results, the outbox, and the question that the sweep asks of studies."""

import sqlalchemy as sa
from alembic import op

revision = "r0002"
down_revision = "r0001"
branch_labels = None
depends_on = None

DUE = {"sqlite": "planned_hash IS NOT input_hash", "postgresql": "planned_hash IS DISTINCT FROM input_hash"}


def upgrade() -> None:
    op.create_index(
        "study_due",
        "study",
        ["study_instance_uid"],
        sqlite_where=sa.text(DUE["sqlite"]),
        postgresql_where=sa.text(DUE["postgresql"]),
    )
    op.create_table(
        "job",
        sa.Column("id", sa.String(32), primary_key=True),
        sa.Column("kind", sa.String(16), nullable=False),
        sa.Column("study_instance_uid", sa.String(64)),
        sa.Column("route", sa.String(256), nullable=False),
        sa.Column("model", sa.String(256), nullable=False),
        sa.Column("input_hash", sa.String(64), nullable=False),
        sa.Column("incomplete", sa.Boolean(), nullable=False),
        sa.Column("spec", sa.JSON(), nullable=False),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("progress", sa.JSON()),
        sa.Column("error", sa.Text(), nullable=False),
        sa.Column("run", sa.Integer(), nullable=False),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("not_before", sa.Float()),
        sa.Column("handed_over", sa.Boolean(), nullable=False),
        sa.Column("made_at", sa.Float(), nullable=False),
        sa.Column("created_at", sa.Float(), nullable=False),
        sa.Column("started_at", sa.Float()),
        sa.Column("ended_at", sa.Float()),
        sa.Column("superseded_by", sa.String(32)),
    )
    op.create_index("ix_job_study_instance_uid", "job", ["study_instance_uid"])
    op.create_index("ix_job_state", "job", ["state"])
    op.create_table(
        "result",
        sa.Column("job_id", sa.String(32), sa.ForeignKey("job.id", ondelete="CASCADE"), primary_key=True),
        sa.Column("sop_instance_uid", sa.String(64), primary_key=True),
        sa.Column("finding", sa.Text(), nullable=False),
    )
    op.create_index("ix_result_sop_instance_uid", "result", ["sop_instance_uid"])
    op.create_table(
        "outbox",
        sa.Column("id", sa.Integer(), primary_key=True),
        sa.Column("sop_instance_uid", sa.String(64), nullable=False),
        sa.Column("study_instance_uid", sa.String(64), nullable=False),
        sa.Column("destination", sa.String(256), nullable=False),
        sa.Column("job_id", sa.String(32)),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("checks", sa.Integer(), nullable=False),
        sa.Column("next_attempt_at", sa.Float()),
        sa.Column("last_error", sa.Text(), nullable=False),
        sa.Column("created_at", sa.Float(), nullable=False),
        sa.Column("updated_at", sa.Float(), nullable=False),
        sa.UniqueConstraint("sop_instance_uid", "destination"),
    )
    op.create_index("ix_outbox_study_instance_uid", "outbox", ["study_instance_uid"])
    op.create_index("ix_outbox_job_id", "outbox", ["job_id"])
    op.create_index("ix_outbox_next_attempt_at", "outbox", ["next_attempt_at"])


def downgrade() -> None:
    for table in ("outbox", "result", "job"):
        op.drop_table(table)
    op.drop_index("study_due", "study")
