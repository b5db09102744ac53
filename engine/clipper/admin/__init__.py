"""Administration of a running engine over a local Unix socket."""

from .client import AdminClient, CommandError, NotRunningError
from .host import Host
from .messages import MessageError
from .server import AdminServer

__all__ = [
    "AdminClient",
    "AdminServer",
    "CommandError",
    "Host",
    "MessageError",
    "NotRunningError",
]
