"""gunicorn settings: each worker makes an engine after it was forked, and closes it in the end."""

from typing import Any

workers = 2
worker_class = "gthread"
threads = 8  # what they ask at once is one batch
graceful_timeout = 5


def post_worker_init(worker: Any) -> None:
    """Start the engine."""
    worker.wsgi.start()


def worker_exit(server: Any, worker: Any) -> None:
    """Close it."""
    if worker.wsgi is not None:  # it could be loaded
        worker.wsgi.stop()
