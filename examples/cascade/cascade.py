"""Asks a small model first, and a large one only where the small one is not sure.

    python examples/cascade/cascade.py

Prints how good each model is alone on scikit-learn's digits, how good the cascade is for a few
thresholds, and how many rows the large model had to see for that. Choose the threshold that pays.
"""

import sys

import numpy as np
from numpy.typing import NDArray
from sklearn.datasets import load_digits
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.ensemble import ExtraTreesClassifier

import clipper

TRAINED = 1200  # images; the others are asked
THRESHOLDS = (0.5, 0.9, 0.99)

Images = NDArray[np.float32]
Probabilities = NDArray[np.float32]


class Counted:
    """A classifier as a model: probabilities of ten digits, and a count of what it was asked."""

    def __init__(self, classifier: LinearDiscriminantAnalysis | ExtraTreesClassifier) -> None:
        self.classifier = classifier
        self.rows = 0

    def __call__(self, images: Images) -> Probabilities:
        """Answer a batch."""
        self.rows += len(images)
        return np.asarray(self.classifier.predict_proba(images), np.float32)


def main() -> int:
    """Run the comparison."""
    images, digits = load_digits(return_X_y=True)
    images = images.astype(np.float32)
    small = Counted(LinearDiscriminantAnalysis())
    large = Counted(ExtraTreesClassifier(100, random_state=0))
    asked, truth = images[TRAINED:], digits[TRAINED:]
    with clipper.Engine() as engine:
        for name, model in {"small": small, "large": large}.items():
            model.classifier.fit(images[:TRAINED], digits[:TRAINED])
            engine.deploy(
                name, model,
                input=clipper.Tensor("float32", (64,)), output=clipper.Tensor("float32", (10,)),
                warmup=images[0],
            )  # fmt: skip
            alone = engine.model(name).predict_many(asked).output.argmax(axis=1)
            print(f"{name} alone: {np.mean(alone == truth):.1%} right")
        for threshold in THRESHOLDS:
            application = engine.create_application(
                f"digits-{threshold}",
                models=["small", "large"],
                policy=clipper.Cascade(threshold),
                slo=1.0,
            )
            before = large.rows
            predictions = application.predict_many(asked)
            right = np.mean(predictions.output.argmax(axis=1) == truth)
            share = (large.rows - before) / len(asked)
            print(f"Cascade({threshold}): {right:.1%} right, the large model saw {share:.0%}")
        prediction = engine.application("digits-0.99").predict(asked[0])
        print(f"the first row went through {' and '.join(prediction.models)}, ", end="")
        print(f"confidence {prediction.confidence:.2f}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
