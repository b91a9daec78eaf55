"""The image's tests use the shared container fixtures."""

from tests.containers import archive, container, image, run  # noqa: F401
