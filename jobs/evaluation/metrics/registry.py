"""All metrics, in the order of evaluation.json."""

from jobs.evaluation.metrics.ceiling import Ceiling
from jobs.evaluation.metrics.coverage import Coverage
from jobs.evaluation.metrics.f1 import F1
from jobs.evaluation.metrics.hit_rate import HitRate
from jobs.evaluation.metrics.metric import SummedMetric, WholeMetric
from jobs.evaluation.metrics.next_hit_rate import NextHitRate
from jobs.evaluation.metrics.precision import Precision
from jobs.evaluation.metrics.recall import Recall
from jobs.evaluation.metrics.top_share import TopShare

SUMMED_METRICS: tuple[SummedMetric, ...] = (
    HitRate(),
    Recall(),
    Precision(),
    F1(),
    NextHitRate("next_all", rare_alone=False),
    NextHitRate("next_rare", rare_alone=True),
)
WHOLE_METRICS: tuple[WholeMetric, ...] = (Ceiling(), Coverage(), TopShare("top1_share", of=0.01))

USER_FIGURES = tuple(metric.name for metric in SUMMED_METRICS if metric.unit == "user")
NEXT_FIGURES = tuple(metric.name for metric in SUMMED_METRICS if metric.unit == "clicker")
WHOLE_FIGURES = tuple(metric.name for metric in WHOLE_METRICS)
