"""The baselines that a project's shards allow, by name."""

from collections.abc import Callable

from jobs.baselines.item_cf import ITEM_CF, item_cf, read_sessions
from jobs.baselines.popularity import POPULARITY, popularity
from jobs.common.evaluate import Evaluate
from jobs.evaluation.cases import UserCases
from jobs.evaluation.map_recommender import MapRecommender
from jobs.evaluation.recommender import Recommender
from jobs.similarity.catalogue import Catalogue
from pipeline.storage.locations import Location

BASELINES = (POPULARITY, ITEM_CF)


def baselines(
    shards: Location, catalogue: Catalogue, users: UserCases, settings: Evaluate
) -> dict[str, Callable[[], Recommender]]:
    """Name -> how it is made: popularity, and Item-CF where the shards hold sessions. Raises
    ManifestError where a file of the shards is absent or damaged."""
    models: dict[str, Callable[[], Recommender]] = {
        POPULARITY: lambda: popularity(catalogue, users, settings.k)
    }
    tokens = read_sessions(shards)
    if tokens is not None:
        models[ITEM_CF] = lambda: MapRecommender(item_cf(tokens, catalogue, settings))
    return models
