"""Placement: one pure step on one device, over all of them, and over several processes."""

from jtl.engine.parallel.choice import best, mesh, pmap, single
from jtl.engine.parallel.placement import Placement, check_batch_size

__all__ = ["Placement", "best", "check_batch_size", "mesh", "pmap", "single"]
