"""What applications' policies make of their models, and canaries that are withdrawn and restarted.
"""

from libc.stdint cimport uint64_t
from libcpp.vector cimport vector

from clipper._core cimport native
from clipper._core.application cimport ApplicationCore
from clipper._core.contexts cimport context_hash

import logging

from clipper.policies.standing import ModelStanding

_log = logging.getLogger("clipper")


def policy_state(ApplicationCore application, context=None):
    """Return what the policy makes of each model now.

    Parameters
    ----------
    context : str, bytes, int or tuple of those, optional
        Whose state; the application's own if not given. A context of which nothing is known has
        that, too, and so has every context if the policy does not learn by context.

    Returns
    -------
    dict from str to ModelStanding
        By model, in the application's order.

    Raises
    ------
    TypeError, ValueError
        If the context cannot be used, or no policy chooses by numbers: stages say who is asked, or
        the policy is a class of your own, whose state is yours to look at.
    """
    cdef uint64_t hashed = 0
    cdef const uint64_t* key = NULL
    if context is not None:
        hashed = context_hash(context)
        key = &hashed
    if application.runner is not None and application.runner.chooses:
        raise ValueError(f"application {application.name!r} has a policy of its own class: what "
                         "its states mean only that knows, so let it show them")
    made = standings_of(application, key)
    if not made:
        raise ValueError(f"application {application.name!r} goes through stages: nothing is "
                         "learned of its models")
    return made


def describe_policy(ApplicationCore application):
    """What ``describe()`` shows of an application's policy beside its text, as plain values."""
    cdef native.Application* handle = application.handle
    cdef dict made = {"models": {}}
    if application.runner is None or not application.runner.chooses:
        made["models"] = {name: standing._asdict()
                          for name, standing in standings_of(application, NULL).items()}
    if handle.fewest_asks != 0:
        made["asks_spared"] = handle.asks_spared.load()
    if native.canary_of(handle[0]) != NULL:
        made["withdrawn"] = native.has_withdrawn_canary(handle[0])
    return made


def restart_canary(ApplicationCore application):
    """Give the new model of a ``Canary`` its share again, from counts of nothing.

    For one that was withdrawn because it failed, once it is mended; one that still serves starts
    its comparison anew.

    Raises
    ------
    ValueError
        If the application's policy is no ``Canary``.
    """
    if native.canary_of(application.handle[0]) == NULL:
        raise ValueError(f"application {application.name!r} has no canary: create it with "
                         "policy=Canary(...)")
    # Nobody logs in between: that takes the GIL.
    application.told_of_withdrawal = False
    native.restart_canary(application.handle[0])


def log_alarms(ApplicationCore application):
    """Log a canary that was withdrawn since this was last called."""
    if application.told_of_withdrawal or not native.has_withdrawn_canary(application.handle[0]):
        return
    application.told_of_withdrawal = True
    seen = [f"{name!r} failed in {round(standing.observed * (standing.loss or 0.0))} of "
            f"{round(standing.observed)} queries"
            for name, standing in standings_of(application, NULL).items()]
    withdrawn = next(name for name, standing in standings_of(application, NULL).items()
                     if standing.share == 0.0)
    _log.warning("application %s: canary %r was withdrawn: %s; call restart_canary() when it is "
                 "mended", application.name, withdrawn, ", ".join(seen))


cdef dict standings_of(ApplicationCore application, const uint64_t* context):
    cdef vector[native.Standing] standings = native.standings_of(application.handle[0], context)
    cdef size_t place
    cdef tuple names = (<object>application)._model_names
    cdef dict made = {}
    for place in range(standings.size()):
        made[names[place]] = ModelStanding(
            standings[place].share, standings[place].weight,
            standings[place].loss if standings[place].count > 0 else None,
            standings[place].count)
    return made
