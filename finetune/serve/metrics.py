"""/metrics in Prometheus' text format: requests by path and status, and the fast engine's own figures.

fast/server.py and plugin.py add the path.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Mapping
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

# {key in the fast engine's figures: (name, whether it is a counter, help)}
ENGINE = {
    "running": ("rows_running", False, "answers under way"),
    "waiting": ("requests_waiting", False, "requests whose prompt is not read yet"),
    "pages_used": ("cache_pages_used", False, "pages of the key/value cache in use"),
    "pages": ("cache_pages", False, "pages of the key/value cache"),
    "prompt_tokens": ("prompt_tokens", True, "tokens of prompts that were read"),
    "shared_tokens": ("shared_prompt_tokens", True, "tokens of prompts that were in the cache already"),
    "answer_tokens": ("answer_tokens", True, "tokens of answers"),
    "taken_back": ("rows_taken_back", True, "answers that gave their pages back and were read again"),
}
PATHS = ("/v1/chat/completions", "/v1/completions", "/v1/models", "/health", "/metrics")
BUCKETS = (0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, float("inf"))


class Counts:
    """Counts of requests, kept by the guard. Only one event loop writes them, so there is no lock."""

    def __init__(self) -> None:
        self.requests: Counter[tuple[str, str]] = Counter()
        self.seconds: Counter[float] = Counter()
        self.sum = 0.0
        self.in_flight = 0

    def ended(self, path: str, status: int, seconds: float) -> None:
        """Count a request that has been answered, or whose client has left (status 499). It took `seconds`."""
        known = next((each for each in PATHS if path.rstrip("/") == each), "other")
        self.requests[known, str(status)] += 1
        self.seconds[next(limit for limit in BUCKETS if seconds <= limit)] += 1
        self.sum += seconds

    def collect(self, load: Mapping[str, int]) -> Iterator[Any]:
        """The metric families of Prometheus' client. `load`: the engine's own figures."""
        from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily

        requests = CounterMetricFamily("mirror_requests", "requests answered", labels=("path", "status"))
        for labels, count in self.requests.items():
            requests.add_metric(labels, count)
        yield requests
        below, buckets = 0, []
        for limit in BUCKETS:
            below += self.seconds[limit]
            buckets.append(("+Inf" if limit == float("inf") else str(limit), below))
        yield HistogramMetricFamily("mirror_request_seconds", "seconds a request took", buckets, self.sum)
        yield GaugeMetricFamily("mirror_requests_in_flight", "requests being answered", self.in_flight)
        for key, (name, grows, text) in ENGINE.items():
            if key in load:
                yield (CounterMetricFamily if grows else GaugeMetricFamily)(f"mirror_{name}", text, load[key])


class _Collector:
    def __init__(self, counts: Counts, load: Callable[[], Mapping[str, int]]) -> None:
        self.counts, self.load = counts, load

    def collect(self) -> Iterator[Any]:
        return self.counts.collect(self.load())


def page(counts: Counts, load: Callable[[], Mapping[str, int]] = dict) -> Callable[[Request], Awaitable[Response]]:
    """The handler of /metrics. `load` returns the engine's own figures."""

    async def metrics(_: Request) -> Response:
        from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest

        registry = CollectorRegistry()
        registry.register(_Collector(counts, load))  # type: ignore[arg-type]
        return Response(generate_latest(registry), media_type=CONTENT_TYPE_LATEST)

    return metrics
