"""What a model is, in a few words for lists and records."""

from __future__ import annotations

from torch import nn


def describe_model(model: nn.Module) -> str:
    """The kind of a model and its widths, such as "CNN 8-16" or "embedding 12, MLP 64".

    Widths are those of hidden layers: the last linear layer gives the outputs. A model that has
    none of the layers known here is called by its class.
    """
    layers = list(model.modules())
    parts = []
    attentive = [m for m in layers if isinstance(m, nn.TransformerEncoderLayer)]
    # What a transformer is made of is no layer of its own.
    inside = {id(part) for layer in attentive for part in layer.modules()}
    layers = [m for m in layers if id(m) not in inside]
    recurrent = [m for m in layers if isinstance(m, nn.RNNBase)]
    convolutions = [m for m in layers if isinstance(m, nn.Conv1d | nn.Conv2d | nn.Conv3d)]
    linear = [m for m in layers if isinstance(m, nn.Linear)]
    hidden = [m.out_features for m in linear[:-1]]
    if convolutions:
        parts.append(f"CNN {_widths([m.out_channels for m in convolutions])}")
    if recurrent:
        parts.append(f"{recurrent[0].mode} {_widths([m.hidden_size for m in recurrent])}")
    if attentive:
        parts.append(f"transformer {_widths([m.self_attn.embed_dim for m in attentive])}")
    if hidden:
        parts.append(f"MLP {_widths(hidden)}")
    tables = [m.embedding_dim for m in layers if isinstance(m, nn.Embedding)]
    if tables and not recurrent and not attentive:
        parts.insert(0, f"embedding {_widths(tables)}")
    if not parts:
        return "linear" if linear else type(model).__name__
    return ", ".join(parts)


def n_parameters(model: nn.Module) -> int:
    """Numbers that training sets."""
    return sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)


def _widths(widths: list[int]) -> str:
    return "-".join(map(str, widths))
