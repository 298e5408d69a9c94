"""The catalog on any database: all of its ports in one object."""

from dropoff_tus.outbox import Sinks
from storage.catalog.audit import SqlAudit
from storage.catalog.dropoffs import SqlDropoffs, SqlNotes
from storage.catalog.outbox import SqlOutbox
from storage.catalog.tokens import SqlTokens
from storage.catalog.transaction import Engine
from storage.catalog.uploads import SqlUploads


class SqlCatalog(SqlUploads, SqlDropoffs, SqlTokens, SqlAudit, SqlNotes):
    """Implements `ports.catalog.Catalog`; `outbox` has the events."""

    def __init__(self, engine: Engine, sinks: Sinks | None = None) -> None:
        """Take the database, and the receivers of events."""
        super().__init__(engine, sinks)
        self.outbox = SqlOutbox(engine)
