"""Small models that read a window of tokens in order: recurrent and attentive."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class GRUClassifier(nn.Module):
    """Embedding, a gated recurrent unit (Cho et al., 2014) and a linear layer on its last state.

    Args:
        n_tokens: size of the vocabulary.
        embedding: width of a token's embedding.
        width: of the state.
        n_outputs: outputs.
    """

    def __init__(self, n_tokens: int, embedding: int, width: int, n_outputs: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(n_tokens, embedding)
        self.recurrent = nn.GRU(embedding, width, batch_first=True)
        self.head = nn.Linear(width, n_outputs)

    def forward(self, tokens: Tensor) -> Tensor:
        """Logits, `(n_examples, n_outputs)`, of tokens `(n_examples, length)`."""
        outputs: Tensor = self.head(self.recurrent(self.embedding(tokens))[0][:, -1])
        return outputs


class TransformerClassifier(nn.Module):
    """Layers of torch's own transformer, and a linear layer on the last token.

    Args:
        n_tokens: size of the vocabulary.
        length: tokens in a window.
        width: of a token, divisible by `n_heads`.
        n_heads: attention heads.
        n_outputs: outputs.
        n_layers: of attention and a perceptron each (default: 1).
        norm_first: normalise before them, not after (default: True).
        expansion: width of the perceptrons, in widths of a token (default: 4).
    """

    def __init__(
        self,
        n_tokens: int,
        length: int,
        width: int,
        n_heads: int,
        n_outputs: int,
        n_layers: int = 1,
        norm_first: bool = True,
        expansion: int = 4,
    ) -> None:
        super().__init__()
        self.embedding = nn.Embedding(n_tokens, width)
        self.position = nn.Parameter(torch.randn(length, width) * 0.02)
        layers = [
            nn.TransformerEncoderLayer(
                width,
                n_heads,
                expansion * width,
                dropout=0.0,
                batch_first=True,
                norm_first=norm_first,
            )
            for _ in range(n_layers)
        ]
        self.layer = layers[0] if n_layers == 1 else nn.Sequential(*layers)
        self.head = nn.Linear(width, n_outputs)

    def forward(self, tokens: Tensor) -> Tensor:
        """Logits, `(n_examples, n_outputs)`, of tokens `(n_examples, length)`."""
        outputs: Tensor = self.head(self.layer(self.embedding(tokens) + self.position)[:, -1])
        return outputs
