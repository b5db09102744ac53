"""Reads digits from files: decoding, a model, labels; doubtful ones get a second opinion.

    python examples/pipeline/pipeline.py

Four models, one query, one deadline. What one stage makes is written straight to where the next
one's batch is read; rows of many queries form batches again at each stage. ``when`` lets the second
opinion run for doubtful images only, and ``first`` lets the labels take whichever has run.
"""

import sys
import zlib
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from sklearn.datasets import load_digits
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.ensemble import ExtraTreesClassifier

import clipper
from clipper import INPUT, first, when

TRAINED = 1200  # images; the others are asked
NAMES = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")

Images = NDArray[np.float32]
Probabilities = NDArray[np.float32]

READ_DIGITS = clipper.Pipeline({
    "decode": INPUT,
    "model": "decode",
    "second": when("model", "<", 0.99).then("decode"),
    "labels": first("second", "model"),
})  # fmt: skip


def encode(image: Images) -> bytes:
    """Stand in for an image format."""
    return zlib.compress(image.astype(np.uint8).tobytes())


def decode(files: list[bytes]) -> Images:
    """Turn a batch of files into one of images."""
    pixels = [np.frombuffer(zlib.decompress(file), np.uint8) for file in files]
    return np.stack(pixels).astype(np.float32)


def classify_with(
    classifier: LinearDiscriminantAnalysis | ExtraTreesClassifier,
) -> Callable[[Images], Probabilities]:
    """Make a model of a classifier: probabilities of ten digits."""
    return lambda images: np.asarray(classifier.predict_proba(images), np.float32)


def label(probabilities: Probabilities) -> list[str]:
    """Name the most probable digit of each row."""
    return [NAMES[digit] for digit in probabilities.argmax(axis=1)]


def main() -> int:
    """Deploy the stages, and ask for the images that no model has seen."""
    images, digits = load_digits(return_X_y=True)
    images = images.astype(np.float32)
    quick = LinearDiscriminantAnalysis().fit(images[:TRAINED], digits[:TRAINED])
    thorough = ExtraTreesClassifier(100, random_state=0).fit(images[:TRAINED], digits[:TRAINED])
    pixels, scores = clipper.Tensor("float32", (64,)), clipper.Tensor("float32", (10,))
    with clipper.Engine() as engine:
        engine.deploy(
            "decode", decode, input=clipper.Tensor("bytes"), output=pixels,
            warmup=encode(images[0]),
        )  # fmt: skip
        for name, classifier in {"model": quick, "second": thorough}.items():
            engine.deploy(
                name, classify_with(classifier),
                input=pixels, output=scores, warmup=images[0],
            )  # fmt: skip
        engine.deploy(
            "labels", label, input=scores, output=clipper.Tensor("text"),
            warmup=np.zeros(10, np.float32),
        )  # fmt: skip
        read = engine.create_application(
            "read", models=["decode", "model", "second", "labels"], policy=READ_DIGITS, slo=1.0
        )
        files = [encode(image) for image in images[TRAINED:]]
        truth = [NAMES[digit] for digit in digits[TRAINED:]]
        predictions = read.predict_many(files)
        right = np.mean(np.array(predictions.output) == np.array(truth))
        doubtful = sum("second" in prediction.models for prediction in predictions)
        print(f"{len(files)} images, {right:.1%} read right, {doubtful} with a second opinion")
        prediction = read.predict(files[0])
        print(f"the first is {prediction.output!r}, by {', '.join(prediction.models)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
