"""What queries keep in the index: numbers of instances by class, indexes, and search values in their new form."""

import json
from collections.abc import Iterator
from typing import Any

import sqlalchemy as sa
from alembic import op

from plugin.archive import levels

revision = "r0004"
down_revision = "r0003"
branch_labels = None
depends_on = None

_KEYS: dict[str, tuple[str, ...]] = {
    "study": ("study_instance_uid",),
    "series": ("study_instance_uid", "series_instance_uid"),
    "instance": ("sop_instance_uid",),
}
# Written as plugin.archive.query writes them, or SQLite does not know them again.
_INDEXES = {
    "study_newest_first": "study (study_date DESC, json_extract(search, '$.\"00080030\"') DESC, study_instance_uid)",
    "study_by_patient": "study (json_extract(search, '$.\"00100020\"'))",
    "study_by_accession": "study (json_extract(search, '$.\"00080050\"'))",
    "series_of_study": "series (study_instance_uid, series_instance_uid, modality)",
}
# The rows follow every change of `instance`, whoever makes it.
_PLUS_ONE = """INSERT INTO series_content VALUES
    (NEW.study_instance_uid, NEW.series_instance_uid, NEW.sop_class_uid, 1)
    ON CONFLICT DO UPDATE SET instances = instances + 1;"""
_THIS_ONE = """study_instance_uid = OLD.study_instance_uid
    AND series_instance_uid = OLD.series_instance_uid AND sop_class_uid = OLD.sop_class_uid"""
_MINUS_ONE = f"""UPDATE series_content SET instances = instances - 1 WHERE {_THIS_ONE};
    DELETE FROM series_content WHERE {_THIS_ONE} AND instances = 0;"""
_TRIGGERS = {
    "instance_came": ("INSERT", _PLUS_ONE),
    "instance_went": ("DELETE", _MINUS_ONE),
    "instance_moved": ("UPDATE OF study_instance_uid, series_instance_uid, sop_class_uid", _MINUS_ONE + _PLUS_ONE),
}


def upgrade() -> None:
    op.create_table(
        "series_content",
        sa.Column("study_instance_uid", sa.String(64), primary_key=True),
        sa.Column("series_instance_uid", sa.String(64), primary_key=True),
        sa.Column("sop_class_uid", sa.String(64), primary_key=True),
        sa.Column("instances", sa.Integer(), nullable=False),
        sqlite_with_rowid=False,
    )
    op.execute(
        "INSERT INTO series_content SELECT study_instance_uid, series_instance_uid, sop_class_uid, count(*) "
        "FROM instance GROUP BY 1, 2, 3"
    )
    for name, (when, what) in _TRIGGERS.items():
        op.execute(f"CREATE TRIGGER {name} AFTER {when} ON instance BEGIN {what} END")
    for level, keys in _KEYS.items():
        _search_anew(level, keys)
    op.execute("UPDATE study SET study_date = substr(coalesce(json_extract(search, '$.\"00080020\"'), ''), 1, 16)")
    for name, index in _INDEXES.items():
        op.execute(f"CREATE INDEX {name} ON {index}")


def _search_anew(level: str, keys: tuple[str, ...]) -> None:
    """Write `search` as this release reads it, from the attributes; the earlier form had neither items nor lists."""
    connection = op.get_bind()
    where = " AND ".join(f"{key} = :{key}" for key in keys)
    for rows in _batches(connection, f"SELECT attributes, {', '.join(keys)} FROM {level}"):
        values = [
            {
                "search": json.dumps(levels.search_text(json.loads(row.attributes))),
                **{key: row._mapping[key] for key in keys},
            }
            for row in rows
        ]
        connection.execute(sa.text(f"UPDATE {level} SET search = :search WHERE {where}"), values)


def _batches(connection: sa.Connection, query: str) -> Iterator[Any]:
    """Rows by rowid, which an UPDATE does not change: a cursor must not run over a table that is being written."""
    last = 0
    while rows := connection.execute(
        sa.text(f"{query.replace('SELECT', 'SELECT rowid,')} WHERE rowid > :last ORDER BY rowid LIMIT 1000"),
        {"last": last},
    ).all():
        yield rows
        last = rows[-1].rowid


def downgrade() -> None:
    for name in _INDEXES:
        op.drop_index(name)
    for name in _TRIGGERS:
        op.execute(f"DROP TRIGGER {name}")
    op.drop_table("series_content")
