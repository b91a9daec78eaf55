"""The image's tests use the shared container fixtures."""

from tests.containers import container, image, run  # noqa: F401
