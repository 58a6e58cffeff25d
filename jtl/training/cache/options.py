"""What can be said about the cache in a config: where it is kept, and how large it may be."""

import dataclasses
from typing import Annotated, Literal

from annotated_types import Ge

CacheChoice = Literal["auto", "off", "device", "host", "file"]
Where = Literal["device", "host", "file"]

Bytes = Annotated[int, Ge(0)]


@dataclasses.dataclass(frozen=True, kw_only=True)
class CacheLimits:
    """How large a cache may be at each place; `auto` takes the first where it fits.

    Attributes:
        device: bytes in the memory of each device.
        host: bytes in main memory.
        file: bytes in the run's folder, while the run lasts.
    """

    device: Bytes = 2**30
    host: Bytes = 4 * 2**30
    file: Bytes = 32 * 2**30
