"""How long videos take: what the profile says of its extractors, corrected by what they took here."""

from __future__ import annotations

from collections.abc import Sequence

from vemoclap_batch.app.jobs import Job, Jobs
from vemoclap_batch.config import Config

#: Weight of the newest video in the correction.
_NEWEST = 0.4
#: Of a video whose length is not known yet, and seconds of a job beside its stages.
_ASSUMED_S, _BESIDE_S = 30.0, 0.5


class Pace:
    """Expects so many seconds of a video: those that the profile's costs add up to, times a factor that is learnt."""

    def __init__(self, config: Config, jobs: Jobs) -> None:
        costs = [entry.resources.cost for entry in config.extractors.values()]
        self._costs, self._jobs = [config.decode.cost, *costs], jobs
        self._factor = jobs.number("pace", 1.0)
        self._known = jobs.number("pace known", 0.0) > 0

    def expected(self, duration_s: float | None) -> float:
        """Return the seconds of stages that a video of some length is expected to take."""
        return self._factor * self._of_profile(duration_s)

    def seconds(self, jobs: Sequence[Job], slots: int) -> float:
        """Return how long some jobs take, so many at a time."""
        total = sum(self.expected(job.duration_s) + _BESIDE_S for job in jobs)
        # The last one takes its own time, however many there are.
        longest = max((self.expected(job.duration_s) + _BESIDE_S for job in jobs), default=0.0)
        return max(longest, total / max(slots, 1))

    def learn(self, duration_s: float | None, seconds: float) -> None:
        """Take in what the stages of a video took."""
        factor = seconds / max(self._of_profile(duration_s), 1e-3)
        self._factor = _NEWEST * factor + (1 - _NEWEST) * self._factor if self._known else factor
        self._known = True
        self._jobs.keep_number("pace", self._factor)
        self._jobs.keep_number("pace known", 1.0)

    def _of_profile(self, duration_s: float | None) -> float:
        return sum(cost.of(_ASSUMED_S if duration_s is None else duration_s) for cost in self._costs)
