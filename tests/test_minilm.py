"""Sentences become vectors, whether they are sent as tokens or as text, whatever is batched."""

import pickle
import shutil

import numpy as np
import pytest

import clipper
from clipper import Ragged, Tensor

torch = pytest.importorskip("torch")
pytest.importorskip("safetensors")
pytest.importorskip("tokenizers")

from clipper_adapters.zoo import minilm  # noqa: E402

try:
    FOLDER = minilm.minilm_folder()
except FileNotFoundError as missing:
    pytest.skip(str(missing), allow_module_level=True)

TEXTS = [
    "This is an example sentence",
    "Each sentence is converted",
    "",
    "A man is eating food.",
    "Somebody has a meal.",
    "The stock exchange closed two per cent lower on Friday, " * 8,
    "Ünïcödé, 語 and 🙂 are read, too",
]


@pytest.fixture(scope="module")
def adapter():
    return minilm.MiniLM(threads=1)


@pytest.fixture(scope="module")
def bare():
    """The network itself, on one text at a time: nothing is padded."""
    encoder, tokenizer = minilm.load_encoder(FOLDER), minilm.load_tokenizer(FOLDER)

    def embed(text):
        tokens = torch.tensor([tokenizer.encode(text).ids])
        with torch.inference_mode():
            return encoder(tokens, torch.ones_like(tokens))[0].numpy()

    return embed


def test_the_first_numbers_are_those_that_transformers_computes(bare):
    # By BertModel of transformers 5 from the same files, mean over tokens, normalised.
    np.testing.assert_allclose(
        bare("This is an example sentence")[:4], [0.0677, 0.0635, 0.0487, 0.0793], atol=6e-5
    )


def test_alike_sentences_have_alike_vectors(bare):
    vectors = [bare(text) for text in TEXTS]
    np.testing.assert_allclose([np.linalg.norm(v) for v in vectors], 1, atol=1e-5)
    meal, eating, stocks = vectors[4], vectors[3], vectors[5]
    assert meal @ eating > 0.5
    assert meal @ stocks < 0.2


def test_tokens_have_their_marks_and_are_no_more_than_the_model_knows(adapter):
    tokens = adapter.tokenise(["a man", "word " * 1000, ""])
    assert tokens.lengths.tolist() == [4, 256, 2]
    assert tokens[0].tolist() == [101, 1037, 2158, 102]
    assert tokens.values.dtype == np.int64


def test_a_batch_of_mixed_lengths_gives_each_text_the_vector_it_has_alone(adapter, bare):
    assert adapter.input == Tensor("int64", (None,))
    assert adapter.output == Tensor("float32", (384,))
    found = adapter.load("cpu")(adapter.tokenise(TEXTS))
    np.testing.assert_allclose(found, [bare(text) for text in TEXTS], atol=1e-6)


def test_rows_that_fill_their_bucket_are_bit_for_bit_the_bare_networks(adapter):
    tokens = np.random.default_rng(0).integers(1000, 20000, (3, 16))
    with torch.inference_mode():
        rows = torch.from_numpy(tokens)
        expected = minilm.load_encoder(FOLDER)(rows, torch.ones_like(rows)).numpy()
    found = adapter.load("cpu")(Ragged.from_rows(list(tokens)))
    np.testing.assert_array_equal(found, expected)


def test_a_row_without_tokens_has_a_vector_of_zeros(adapter):
    found = adapter.load("cpu")(Ragged.from_rows([[], [101, 102]], np.int64))
    assert not found[0].any()
    np.testing.assert_allclose(np.linalg.norm(found[1]), 1, atol=1e-6)


def test_more_tokens_than_the_last_bucket_are_refused():
    run = minilm.MiniLM(buckets=(16, 32)).load("cpu")
    with pytest.raises(ValueError, match=r"a row of length 40 .* its longest bucket is 32"):
        run(Ragged.from_rows([np.full(40, 1000)], np.int64))


def test_the_engine_serves_tokens_grouped_by_their_number(engine, adapter, bare):
    assert adapter.length_buckets == (16, 32, 64, 128, 256)
    model = engine.deploy("minilm", adapter, slo=60.0, batching=clipper.Fixed(4))
    rows = adapter.tokenise(TEXTS)
    futures = [model.submit(row) for row in rows]
    for text, future in zip(TEXTS, futures, strict=True):
        np.testing.assert_allclose(future.result().output, bare(text), atol=1e-6)
    np.testing.assert_allclose(
        model.predict_many(rows).output, [bare(text) for text in TEXTS], atol=1e-6
    )


def test_the_engine_serves_raw_text(engine, bare):
    adapter = minilm.MiniLM(input="text", threads=1)
    assert adapter.input == Tensor("text")
    assert adapter.length_buckets == (70, 150, 310, 630, 1270)
    model = engine.deploy("minilm", adapter, slo=60.0, batching=clipper.Fixed(4))
    long = "word " * 1000  # is cut, and waits in the lane of what is longer than all buckets
    found = model.predict_many([*TEXTS, long])
    assert not found.is_default.any()
    np.testing.assert_allclose(found.output, [bare(text) for text in [*TEXTS, long]], atol=1e-6)


def test_texts_of_a_batch_are_padded_to_no_more_than_their_own_bucket(monkeypatch, bare):
    shapes = []
    encoder = minilm.load_encoder(FOLDER)
    encoder.register_forward_pre_hook(lambda _, given: shapes.append(tuple(given[0].shape)))
    monkeypatch.setattr(minilm, "load_encoder", lambda _: encoder)
    run = minilm.MiniLM(input="text").load("cpu")
    shapes.clear()
    found = run(TEXTS)
    assert shapes == [(6, 16), (1, 128)]
    np.testing.assert_allclose(found, [bare(text) for text in TEXTS], atol=1e-6)


def test_it_can_be_sent_to_another_process(adapter):
    copy = pickle.loads(pickle.dumps(adapter))
    found, expected = (a.load("cpu")(a.tokenise(TEXTS)) for a in (copy, adapter))
    np.testing.assert_array_equal(found, expected)


def test_files_that_are_not_there_or_are_of_something_else_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"which has no tokenizer.json; expected the files"):
        minilm.MiniLM(tmp_path)
    for name in ("config.json", "tokenizer.json"):
        shutil.copy(FOLDER / name, tmp_path)
    from safetensors.torch import save_file

    save_file({"some.weight": torch.zeros(3)}, tmp_path / "model.safetensors")
    with pytest.raises(ValueError, match=r"does not hold the weights of such a BERT encoder"):
        minilm.MiniLM(tmp_path)
    config = (tmp_path / "config.json").read_text()
    (tmp_path / "config.json").write_text(config.replace('"gelu"', '"relu"'))
    with pytest.raises(ValueError, match="hidden_act='relu'; expected 'gelu'"):
        minilm.MiniLM(tmp_path)
    with pytest.raises(ValueError, match="input='words'; expected 'tokens' or 'text'"):
        minilm.MiniLM(input="words")
