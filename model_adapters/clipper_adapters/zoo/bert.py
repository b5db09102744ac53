"""A BERT encoder that embeds sentences, just large enough to hold a published model's weights."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional

_SERVED = {"hidden_act": "gelu", "position_embedding_type": "absolute"}


@dataclass(frozen=True, slots=True)
class BertConfig:
    """The sizes of an encoder.

    Parameters
    ----------
    vocabulary, positions, types : int
        Rows of the three tables of embeddings.
    width : int
        Numbers a token.
    heads, layers : int
    inner_width : int
        Of the two-layer perceptrons.
    epsilon : float
        Added to variances before roots are taken.
    """

    vocabulary: int
    positions: int
    types: int
    width: int
    heads: int
    layers: int
    inner_width: int
    epsilon: float

    @classmethod
    def from_json(cls, told: Mapping[str, Any]) -> Self:
        """Read a ``config.json``.

        Raises
        ------
        ValueError
            If it describes another kind of network.
        """
        for key, served in _SERVED.items():
            if told.get(key, served) != served:
                raise ValueError(f"config.json has {key}={told[key]!r}; expected {served!r}")
        return cls(
            vocabulary=told["vocab_size"],
            positions=told["max_position_embeddings"],
            types=told["type_vocab_size"],
            width=told["hidden_size"],
            heads=told["num_attention_heads"],
            layers=told["num_hidden_layers"],
            inner_width=told["intermediate_size"],
            epsilon=told["layer_norm_eps"],
        )


class SentenceEncoder(nn.Module):
    """Tokens to one vector of length 1 a row: the mean over the real tokens, scaled.

    Notes
    -----
    Source: Devlin et al., "BERT", NAACL 2019; pooling as in Reimers & Gurevych, "Sentence-BERT",
    EMNLP 2019.
    """

    def __init__(self, config: BertConfig) -> None:
        super().__init__()
        self.words: nn.Embedding = nn.Embedding(config.vocabulary, config.width)
        self.positions: nn.Embedding = nn.Embedding(config.positions, config.width)
        self.types: nn.Embedding = nn.Embedding(config.types, config.width)
        self.norm: nn.LayerNorm = nn.LayerNorm(config.width, config.epsilon)
        self.layers: nn.ModuleList = nn.ModuleList(
            EncoderLayer(config) for _ in range(config.layers)
        )

    def forward(self, tokens: Tensor, mask: Tensor) -> Tensor:
        """Embed rows of tokens.

        Parameters
        ----------
        tokens : Tensor of int64, shape (n, length)
        mask : Tensor, shape (n, length)
            1 for tokens, 0 for padding.

        Returns
        -------
        Tensor of float32, shape (n, width)
            Of length 1; zeros for a row without tokens.
        """
        places = torch.arange(tokens.shape[1], device=tokens.device)
        # All tokens are of the first type: a row is one sentence.
        x = self.norm(self.words(tokens) + self.positions(places) + self.types.weight[0])
        weights = mask.to(x.dtype)
        # The least number instead of infinity: a row without tokens must not divide 0 by 0.
        bias = (1 - weights)[:, None, None, :] * torch.finfo(x.dtype).min
        for layer in self.layers:
            x = layer(x, bias)
        weights = weights[:, :, None]
        mean = (x * weights).sum(1) / weights.sum(1).clamp(min=1)
        return functional.normalize(mean, dim=1)


class EncoderLayer(nn.Module):
    """Attention, then a perceptron, each added to its input and normalised."""

    def __init__(self, config: BertConfig) -> None:
        super().__init__()
        width = config.width
        self.heads: int = config.heads
        self.query: nn.Linear = nn.Linear(width, width)
        self.key: nn.Linear = nn.Linear(width, width)
        self.value: nn.Linear = nn.Linear(width, width)
        self.mixed: nn.Linear = nn.Linear(width, width)
        self.mixed_norm: nn.LayerNorm = nn.LayerNorm(width, config.epsilon)
        self.inner: nn.Linear = nn.Linear(width, config.inner_width)
        self.outer: nn.Linear = nn.Linear(config.inner_width, width)
        self.outer_norm: nn.LayerNorm = nn.LayerNorm(width, config.epsilon)

    def forward(self, x: Tensor, bias: Tensor) -> Tensor:
        """Return the next states, (n, length, width); `bias` is added to what attention weighs."""
        attended = functional.scaled_dot_product_attention(
            self._split(self.query(x)),
            self._split(self.key(x)),
            self._split(self.value(x)),
            attn_mask=bias,
        )
        x = self.mixed_norm(x + self.mixed(attended.transpose(1, 2).flatten(2)))
        states: Tensor = self.outer_norm(x + self.outer(functional.gelu(self.inner(x))))
        return states

    def _split(self, x: Tensor) -> Tensor:
        """(n, length, width) to (n, heads, length, width of a head)."""
        return x.view(*x.shape[:2], self.heads, -1).transpose(1, 2)


#: Where a published file keeps what: its names of tables and of each layer's parts.
_TABLES = {
    "embeddings.word_embeddings": "words",
    "embeddings.position_embeddings": "positions",
    "embeddings.token_type_embeddings": "types",
    "embeddings.LayerNorm": "norm",
}
_PARTS = {
    "attention.self.query": "query",
    "attention.self.key": "key",
    "attention.self.value": "value",
    "attention.output.dense": "mixed",
    "attention.output.LayerNorm": "mixed_norm",
    "intermediate.dense": "inner",
    "output.dense": "outer",
    "output.LayerNorm": "outer_norm",
}


def load_weights(encoder: SentenceEncoder, path: Path) -> None:
    """Fill an encoder from a ``.safetensors`` file of BERT; what it has no use for is left out.

    Raises
    ------
    ValueError
        If the file lacks weights, or has them in other sizes.
    """
    stored = load_file(path)
    named = dict(_TABLES)
    for i in range(len(encoder.layers)):
        for part, here in _PARTS.items():
            named[f"encoder.layer.{i}.{part}"] = f"layers.{i}.{here}"
    ours = {
        f"{named[module]}.{parameter}": stored[key]
        for key in stored
        for module, _, parameter in [key.rpartition(".")]
        if module in named
    }
    try:
        encoder.load_state_dict(ours)
    except RuntimeError as error:
        raise ValueError(
            f"{path} does not hold the weights of such a BERT encoder: {error}"
        ) from error
