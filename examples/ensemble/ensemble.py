"""Asks three models at once, and says how sure the answer is.

    python examples/ensemble/ensemble.py

Reads scikit-learn's digits. Where the models agree the vote is nearly always right; where they do
not, the confidence says so: with ``min_confidence`` such rows get the default, for a person to see.
"""

import sys

import numpy as np
from sklearn.datasets import load_digits
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.naive_bayes import GaussianNB
from sklearn.tree import DecisionTreeClassifier

import clipper
from clipper_adapters import SklearnModel

TRAINED = 1200  # images; the others are asked
NOBODY = -1


def main() -> int:
    """Compare the models with their vote, and with a vote that may abstain."""
    images, digits = load_digits(return_X_y=True)
    images = images.astype(np.float32)
    asked, truth = images[TRAINED:], digits[TRAINED:]
    models = {
        "tree": DecisionTreeClassifier(random_state=0),
        "bayes": GaussianNB(var_smoothing=0.01),
        "linear": LinearDiscriminantAnalysis(),
    }
    with clipper.Engine() as engine:
        for name, classifier in models.items():
            classifier.fit(images[:TRAINED], digits[:TRAINED])
            model = engine.deploy(name, SklearnModel(classifier))
            print(f"{name}: {np.mean(model.predict_many(asked).output == truth):.1%} right")
        vote = engine.create_application(
            "vote", models=list(models), slo=1.0, policy=clipper.MajorityVote(), default=NOBODY
        )
        answers = vote.predict_many(asked)
        print(f"vote: {np.mean(answers.output == truth):.1%} right")
        for share in sorted(set(answers.confidence), reverse=True):
            sure = answers.confidence == share
            right = np.mean(answers.output[sure] == truth[sure])
            print(f"confidence {share:.2f}: {sure.sum()} rows, {right:.1%} right")
        careful = engine.create_application(
            "careful", models=list(models), slo=1.0, policy=clipper.MajorityVote(),
            default=NOBODY, min_confidence=0.6,
        )  # fmt: skip
        print(f"left to a person: {careful.predict_many(asked).is_default.sum()} rows")
    return 0


if __name__ == "__main__":
    sys.exit(main())
