"""Whether and how a model's answers are kept."""

from dataclasses import dataclass

from .sizes import to_bytes

_MOST_BYTES = 1 << 40
_MOST_SECONDS = 1e9


@dataclass(frozen=True, slots=True)
class Cache:
    """Answers equal inputs without the model, and evaluates those of the same moment once.

    For models that are functions of their input alone. Two inputs share an answer only if they
    agree in every byte, and in their dtypes, shapes and lengths. Each version of a model has a
    cache of its own, which is empty when it begins to answer.

    Parameters
    ----------
    ttl : float, optional
        Seconds that an answer is good for; for as long as there is room if not given.
    bytes : int or str, default "64MiB"
        Memory for answers, all that they cost included. When it is used up, those go first that
        were not asked for again (CLOCK).
    """

    ttl: float | None = None
    bytes: int | str = "64MiB"

    def __post_init__(self) -> None:
        ttl = self.ttl
        is_number = isinstance(ttl, (int, float)) and not isinstance(ttl, bool)
        if ttl is not None and not (is_number and 1e-9 <= ttl < _MOST_SECONDS):
            raise ValueError(
                f"Cache(ttl) is {ttl!r}: give seconds above 0, such as 60, or None for answers "
                "that do not expire"
            )
        if to_bytes(self.bytes) > _MOST_BYTES:
            raise ValueError(f"Cache(bytes) is {self.bytes!r}: give at most 1 TiB")

    def to_core(self) -> tuple[int, int | None]:
        """Return bytes and nanoseconds for the core."""
        return to_bytes(self.bytes), None if self.ttl is None else int(self.ttl * 1e9)


def to_cache(cache: "Cache | bool | None") -> Cache | None:
    """Resolve True and False; raises TypeError if it is something else."""
    if cache is None or cache is False:
        return None
    if cache is True:
        return Cache()
    if not isinstance(cache, Cache):
        raise TypeError(
            f"cache is {cache!r}: give True, False, or clipper.Cache(ttl=..., bytes=...)"
        )
    return cache
