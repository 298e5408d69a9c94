"""The use cases of uploads, wired. They sequence; `dropoff_tus` decides, the ports do.

Order of effects. Creation: the catalog first (it may refuse), then the store. Finishing and ending: the store first (it
is the truth about bytes), then the catalog, which `reconcile` repairs after a crash between the two.
"""

from collections.abc import Callable, Sequence

from dropoff_tus.ports.catalog import Catalog
from dropoff_tus.ports.clock import Clock
from dropoff_tus.ports.store import Store
from server.clock import TrustedTime
from server.usecases.appending import Appender
from server.usecases.creating import Creator
from server.usecases.ending import Ender
from server.usecases.expiring import Expirer
from server.usecases.finding import Finder
from server.usecases.finishing import READ_BACK_BYTES, RETRY_SECONDS, Finisher
from server.usecases.ports import Ports, UploadSettings
from server.usecases.reconcile import Reconciler


class Uploads:
    """All that is done with uploads, each by its own use case."""

    def __init__(
        self,
        store: Store,
        catalog: Catalog,
        clock: Clock,
        new_token: Callable[[], str],
        final_token: Callable[[Sequence[str]], str],
        settings: UploadSettings,
        retry_seconds: Sequence[float] = RETRY_SECONDS,
        read_back_bytes: int = READ_BACK_BYTES,
    ) -> None:
        """Take the ports, the source of tokens, the token of a concatenation by its parts', and settings.

        The last two say when finishing is repeated, and up to which size it reads back while the client waits.
        """
        self.trusted_time = TrustedTime(catalog, clock)
        self.ports = ports = Ports(store, catalog, clock, self.trusted_time, settings)
        self.finisher = Finisher(ports, retry_seconds, read_back_bytes)
        self.finder = Finder(ports, self.finisher)
        self.ender = Ender(ports, self.finder, self.finisher)
        self.expirer = Expirer(ports, self.finisher, self.ender)
        self.appender = Appender(ports, self.finder, self.finisher)
        self.creator = Creator(ports, self.finder, self.finisher, self.ender, self.appender, new_token, final_token)
        self.reconciler = Reconciler(ports, self.finisher, self.ender)
