"""How often the compiler ran: what shows that a step is compiled once."""

from types import TracebackType

import jax

_ASKED = "/jax/core/compile/backend_compile_duration"
_FETCHED = "/jax/compilation_cache/cache_retrieval_time_sec"


class Compilations:
    """Counts programs while it is open.

    Attributes:
        count: that were compiled, or fetched from JAX's cache.
        fetched: of these.
    """

    def __init__(self) -> None:
        self.count = self.fetched = 0

    def __enter__(self) -> "Compilations":
        jax.monitoring.register_event_duration_secs_listener(self._hear)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        jax.monitoring.unregister_event_duration_listener(self._hear)

    def _hear(self, event: str, duration_secs: float, **kwargs: str | int) -> None:
        del duration_secs, kwargs
        self.count += event == _ASKED
        self.fetched += event == _FETCHED
