from __future__ import annotations

from supervisor.master.history import SAMPLES, History


def test_what_is_remembered_comes_back_oldest_first_as_seen_from_now() -> None:
    history = History()
    for second in range(3):
        history.add(10.0 + second, 1.5, 1000 + second, second)
    assert [(each.ago_s, each.rss_bytes, each.lag_ms, each.inflight) for each in history.moments(13.0)] == [
        (3.0, 1000, 1.5, 0),
        (2.0, 1001, 1.5, 1),
        (1.0, 1002, 1.5, 2),
    ]


def test_the_last_sixty_samples_are_kept() -> None:
    history = History()
    for second in range(1, 200):
        history.add(float(second), 0.0, second, 0)
    moments = history.moments(200.0)
    assert [each.rss_bytes for each in moments] == list(range(200 - SAMPLES, 200))
    assert moments[-1].ago_s == 1.0


def test_before_the_first_sample_there_is_none() -> None:
    assert History().moments(1.0) == ()
