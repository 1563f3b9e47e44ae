"""The archive: studies, series, instances, their earlier versions, devices, quarantine."""

import sqlalchemy as sa
from alembic import op

revision = "r0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "study",
        sa.Column("study_instance_uid", sa.String(64), primary_key=True),
        sa.Column("patient_id", sa.String(256), nullable=False),
        sa.Column("study_date", sa.String(16), nullable=False),
        sa.Column("attributes", sa.JSON(), nullable=False),
        sa.Column("search", sa.JSON(), nullable=False),
        sa.Column("first_arrival_at", sa.Float(), nullable=False),
        sa.Column("last_arrival_at", sa.Float(), nullable=False),
        sa.Column("input_hash", sa.String(64), nullable=False),
        sa.Column("planned_hash", sa.String(64)),
        sa.Column("told_complete_at", sa.Float()),
    )
    op.create_index("ix_study_patient_id", "study", ["patient_id"])
    op.create_index("ix_study_study_date", "study", ["study_date"])
    op.create_table(
        "series",
        sa.Column("series_instance_uid", sa.String(64), primary_key=True),
        sa.Column(
            "study_instance_uid",
            sa.String(64),
            sa.ForeignKey("study.study_instance_uid", ondelete="CASCADE"),
            primary_key=True,
        ),
        sa.Column("modality", sa.String(16), nullable=False),
        sa.Column("attributes", sa.JSON(), nullable=False),
        sa.Column("search", sa.JSON(), nullable=False),
    )
    op.create_index("ix_series_modality", "series", ["modality"])
    op.create_table(
        "instance",
        sa.Column("sop_instance_uid", sa.String(64), primary_key=True),
        sa.Column("study_instance_uid", sa.String(64), nullable=False),
        sa.Column("series_instance_uid", sa.String(64), nullable=False),
        sa.Column("sop_class_uid", sa.String(64), nullable=False),
        sa.Column("transfer_syntax_uid", sa.String(64), nullable=False),
        sa.Column("storage_key", sa.String(128), nullable=False, unique=True),
        sa.Column("size", sa.Integer(), nullable=False),
        sa.Column("dataset_hash", sa.String(64), nullable=False),
        sa.Column("pixel_hash", sa.String(64), nullable=False),
        sa.Column("synthetic", sa.Boolean(), nullable=False),
        sa.Column("made_by_us", sa.Boolean(), nullable=False),
        sa.Column("record", sa.JSON()),
        sa.Column("arrived_at", sa.Float(), nullable=False),
        sa.Column("door", sa.String(16), nullable=False),
        sa.Column("calling_aet", sa.String(16), nullable=False),
        sa.Column("called_aet", sa.String(16), nullable=False),
        sa.Column("address", sa.String(64), nullable=False),
        sa.Column("attributes", sa.JSON(), nullable=False),
        sa.Column("search", sa.JSON(), nullable=False),
    )
    op.create_index("instance_of_series", "instance", ["study_instance_uid", "series_instance_uid"])
    op.create_table(
        "instance_version",
        sa.Column("storage_key", sa.String(128), primary_key=True),
        sa.Column("sop_instance_uid", sa.String(64), nullable=False),
        sa.Column("dataset_hash", sa.String(64), nullable=False),
        sa.Column("pixel_hash", sa.String(64), nullable=False),
        sa.Column("size", sa.Integer(), nullable=False),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("arrived_at", sa.Float(), nullable=False),
        sa.Column("replaced_at", sa.Float(), nullable=False),
    )
    op.create_index("ix_instance_version_sop_instance_uid", "instance_version", ["sop_instance_uid"])
    op.create_table(
        "device",
        sa.Column("device_uid", sa.String(64), primary_key=True),
        sa.Column("model", sa.String(256), nullable=False),
    )
    op.create_table(
        "quarantine",
        sa.Column("id", sa.Integer(), primary_key=True),
        sa.Column("storage_key", sa.String(128), nullable=False, unique=True),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("sop_instance_uid", sa.String(256), nullable=False),
        sa.Column("study_instance_uid", sa.String(256), nullable=False),
        sa.Column("size", sa.Integer(), nullable=False),
        sa.Column("arrived_at", sa.Float(), nullable=False),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("door", sa.String(16), nullable=False),
        sa.Column("calling_aet", sa.String(16), nullable=False),
        sa.Column("called_aet", sa.String(16), nullable=False),
        sa.Column("address", sa.String(64), nullable=False),
    )


def downgrade() -> None:
    for table in ("quarantine", "device", "instance_version", "instance", "series", "study"):
        op.drop_table(table)
