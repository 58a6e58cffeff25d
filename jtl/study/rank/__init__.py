"""Which pretrained network serves a dataset best, before any of them is trained."""

from jtl.study.rank.ranking import Ranked, Ranking, rank

__all__ = ["Ranked", "Ranking", "rank"]
