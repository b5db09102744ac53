import pickle
import subprocess
import sys

import numpy as np
import pytest
from sklearn.cluster import KMeans
from sklearn.feature_extraction.text import CountVectorizer
from sklearn.linear_model import LinearRegression, LogisticRegression
from sklearn.multioutput import MultiOutputClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC

from clipper import ModelAdapter, Tensor
from clipper_adapters import SklearnModel, zoo


@pytest.fixture(scope="module")
def data():
    return zoo.digits()


@pytest.fixture(scope="module")
def svm(data):
    return zoo.train_svm(data)


@pytest.fixture(scope="module")
def logistic(data):
    return LogisticRegression(max_iter=20, tol=0.1).fit(data.x_train, data.y_train)


def read_only(rows):
    rows = rows.copy()
    rows.flags.writeable = False
    return rows


@pytest.mark.parametrize("framework", ["torch", "onnxruntime", "sklearn"])
def test_importing_the_adapters_imports_no_framework(framework):
    code = f"import clipper_adapters.zoo, sys; sys.exit({framework!r} in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_the_package_lists_what_it_has_and_knows_nothing_else():
    import clipper_adapters

    assert dir(clipper_adapters) == ["OnnxModel", "Pad", "SklearnModel", "TorchModel"]
    with pytest.raises(AttributeError, match="JaxModel"):
        _ = clipper_adapters.JaxModel
    with pytest.raises(AttributeError, match="resnet21"):
        _ = zoo.resnet21


def test_a_missing_framework_is_named_with_the_way_to_install_it():
    code = (
        "import sys, clipper_adapters\n"
        "sys.modules['onnxruntime'] = None\n"
        "try: clipper_adapters.OnnxModel\n"
        "except ModuleNotFoundError as error: sys.exit(0 if 'clipper[onnx]' in str(error) else 2)\n"
        "sys.exit(3)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_the_svm_of_the_zoo_reads_digits(data, svm):
    assert svm.score(data.x_test, data.y_test) > 0.97
    assert zoo.train_svm(data, kernel="linear").score(data.x_test, data.y_test) > 0.94


def test_it_is_a_model_adapter(svm):
    assert isinstance(SklearnModel(svm), ModelAdapter)


def test_specs_come_from_the_estimator(svm, logistic):
    assert SklearnModel(svm).input == Tensor("float32", (64,))
    assert SklearnModel(svm, input_dtype="float64").input == Tensor("float64", (64,))
    assert SklearnModel(svm).output == Tensor("int64", ())
    assert SklearnModel(svm, method="decision_function").output.shape == (10,)
    probabilities = SklearnModel(logistic, method="predict_proba", input_dtype="float64")
    assert probabilities.output == Tensor("float64", (10,))


def test_regressors_pipelines_and_clusterings_have_specs_as_well(data):
    x, y = data.x_train[:200], data.y_train[:200]
    pipeline = make_pipeline(StandardScaler(), LinearRegression()).fit(x, y)
    assert SklearnModel(pipeline).output.shape == ()
    two_targets = LinearRegression().fit(x, np.stack([y, y], axis=1))
    assert SklearnModel(two_targets).output.shape == (2,)
    clusters = KMeans(3, n_init=1, random_state=0).fit(x)
    assert SklearnModel(clusters).output == Tensor("int32", ())


@pytest.mark.parametrize("method", ["predict", "predict_proba", "decision_function"])
@pytest.mark.parametrize("n", [1, 2, 7, 64])
def test_outputs_are_the_estimators_own(data, logistic, method, n):
    model = SklearnModel(logistic, method=method)
    rows = read_only(data.x_test[:n])

    outputs = model.load("auto")(rows)

    np.testing.assert_array_equal(outputs, getattr(logistic, method)(data.x_test[:n]))
    assert outputs.dtype == model.output.dtype
    assert outputs.shape == (n, *model.output.shape)
    assert not np.shares_memory(outputs, rows)


def test_the_example_is_a_row_of_zeros_that_the_model_takes(svm):
    model = SklearnModel(svm)
    example = model.example()
    assert (example.shape, example.dtype, example.any()) == ((64,), np.float32, False)
    assert model.load("cpu")(example[np.newaxis]).shape == (1,)


def test_it_says_what_it_is(svm):
    assert repr(SklearnModel(svm)) == (
        "SklearnModel(SVC, method='predict', "
        "input=Tensor('float32', (64,)), output=Tensor('int64', ()))"
    )


def test_it_can_be_sent_to_another_process(data, svm):
    model = pickle.loads(pickle.dumps(SklearnModel(svm)))
    np.testing.assert_array_equal(model.load("cpu")(data.x_test[:5]), svm.predict(data.x_test[:5]))


@pytest.mark.parametrize("estimator", [SVC(), make_pipeline(StandardScaler(), SVC())])
def test_an_unfitted_estimator_is_refused(estimator):
    with pytest.raises(
        ValueError, match=r"without n_features_in_; expected a fitted .* fit\(X, y\)"
    ):
        SklearnModel(estimator)


def test_an_estimator_of_text_is_refused():
    with pytest.raises(ValueError, match=r"CountVectorizer.*numeric rows"):
        SklearnModel(CountVectorizer().fit(["a text"]))


def test_a_class_is_refused():
    with pytest.raises(TypeError, match=r"the class SVC.*pass SVC\(...\)\.fit\(X, y\)"):
        SklearnModel(SVC)


def test_labels_that_are_text_are_refused_with_advice(data):
    words = np.array(["even", "odd"])[data.y_train[:100] % 2]
    estimator = SVC().fit(data.x_train[:100], words)
    with pytest.raises(ValueError, match=r"'even'.*LabelEncoder"):
        SklearnModel(estimator)
    assert SklearnModel(estimator, method="decision_function").output == Tensor("float64", ())


def test_a_method_that_the_estimator_lacks_is_refused_with_those_it_has(svm):
    regression = LinearRegression().fit([[0.0], [1.0]], [0, 1])
    with pytest.raises(TypeError, match=r"method='predict_proba'.*LinearRegression.*has: predict$"):
        SklearnModel(regression, method="predict_proba")


def test_a_method_that_returns_several_arrays_is_refused(data):
    targets = np.stack([data.y_train[:100]] * 2, axis=1)
    estimator = MultiOutputClassifier(LogisticRegression(max_iter=5, tol=1.0)).fit(
        data.x_train[:100], targets
    )
    assert SklearnModel(estimator).output == Tensor("int64", (2,))
    with pytest.raises(TypeError, match=r"returned a list.*expected one array"):
        SklearnModel(estimator, method="predict_proba")


@pytest.mark.parametrize("device", ["cuda:0", "gpu"])
def test_it_runs_on_the_cpu_only(svm, device):
    with pytest.raises(ValueError, match=f"SklearnModel got device='{device}'"):
        SklearnModel(svm).load(device)


def test_what_scikit_learn_refuses_raises(data, svm):
    run = SklearnModel(svm).load("cpu")
    rows = data.x_test[:3].copy()
    rows[1, 5] = np.nan
    with pytest.raises(ValueError, match="NaN"):
        run(rows)
