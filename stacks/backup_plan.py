"""How often AWS Backup makes recovery points, how long one may take: what the plan asks for and the alarm waits for."""

from dataclasses import dataclass

MINUTE_SECONDS = 60
DAY_SECONDS = 86_400


@dataclass(frozen=True)
class DailyRule:
    """Once a day at `hour` UTC: a job begins within its start window (minutes) or not at all, and is cancelled when it
    has not ended within its completion window (minutes), which AWS Backup counts from the scheduled time too."""

    hour: int
    start_window_minutes: int
    completion_window_minutes: int
    kept_days: int

    @property
    def schedule(self) -> str:
        """In the form of EventBridge."""
        return f"cron(0 {self.hour} * * ? *)"

    @property
    def longest_gap_seconds(self) -> int:
        """From the end of one recovery point to that of the next, when one was made at once and the next as late as it
        may be. Both windows are added: a completion window that began with the job is then covered as well."""
        return DAY_SECONDS + (self.start_window_minutes + self.completion_window_minutes) * MINUTE_SECONDS


# After both members' own backup windows
NIGHTLY = DailyRule(hour=3, start_window_minutes=60, completion_window_minutes=240, kept_days=35)
