"""Selection policies: which of an application's models are asked, and what their answers make."""

from .bound import BoundPolicy
from .canary import Canary
from .combining import CombineFunction
from .epsilon_greedy import EpsilonGreedy
from .exp3 import Exp3
from .exp4 import Exp4
from .majority_vote import MajorityVote
from .python_policy import Observation, PythonPolicy
from .standing import ModelStanding
from .thompson import Thompson
from .ucb1 import Ucb1
from .weighted_ensemble import WeightedEnsemble
from .weighted_split import WeightedSplit

NativePolicy = (
    Canary
    | EpsilonGreedy
    | Exp3
    | Exp4
    | MajorityVote
    | Thompson
    | Ucb1
    | WeightedEnsemble
    | WeightedSplit
)
Policy = NativePolicy | PythonPolicy

__all__ = [
    "BoundPolicy",
    "Canary",
    "CombineFunction",
    "EpsilonGreedy",
    "Exp3",
    "Exp4",
    "MajorityVote",
    "ModelStanding",
    "NativePolicy",
    "Observation",
    "Policy",
    "PythonPolicy",
    "Thompson",
    "Ucb1",
    "WeightedEnsemble",
    "WeightedSplit",
]
