"""The learned policy: Stable-Baselines3's actor and critic over what a run shows."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from typing import Any, cast

import numpy as np
import torch
from gymnasium import spaces
from stable_baselines3.common.distributions import MultiCategoricalDistribution
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from torch import Tensor

from trainpilot.agents.controller import Decision, Explanation, View
from trainpilot.envs.actions import ActionSpec
from trainpilot.envs.observation import Observation, feature_places
from trainpilot.envs.optimizers import ALIASES, KEEP
from trainpilot.envs.single import observation_space


class ObservationNormaliser(BaseFeaturesExtractor):
    """Gives every feature mean 0 and deviation 1; its statistics are part of the weights.

    Args:
        space: of observations, `(n_features,)`.
        limit: features are clipped to this, > 0 (default: 5).
        normalise: if false, features are clipped alone, and the statistics serve `distance`
            (default: True).
    """

    mean: Tensor
    variance: Tensor
    count: Tensor

    def __init__(self, space: spaces.Box, limit: float = 5.0, *, normalise: bool = True) -> None:
        n_features = int(np.prod(space.shape))
        super().__init__(space, n_features)
        self._limit = limit
        self.normalise = normalise
        self.register_buffer("mean", torch.zeros(n_features))
        self.register_buffer("variance", torch.ones(n_features))
        self.register_buffer("count", torch.zeros(()))

    def forward(self, observations: Tensor) -> Tensor:
        """What the networks take in, `(n, n_features)`."""
        if self.normalise:
            return self._normalised(observations)
        return observations.clamp(-self._limit, self._limit)

    def distance(self, observations: Tensor) -> Tensor:
        """How far observations are from those taken in, `(n,)`.

        The root of the mean square of the normalised features: 1 on average over what was taken
        in, at most `limit`.
        """
        return self._normalised(observations).square().mean(1).sqrt()

    def update(self, observations: Observation) -> None:
        """Take in more observations, `(n, n_features)` (Chan et al., 1979, equation 2.1)."""
        batch = torch.as_tensor(observations, dtype=torch.float32).reshape(-1, len(self.mean))
        total = self.count + len(batch)
        shift = batch.mean(0) - self.mean
        squares = (
            self.variance * self.count
            + batch.var(0, correction=0) * len(batch)
            + shift**2 * self.count * len(batch) / total
        )
        self.mean += shift * len(batch) / total
        self.variance.copy_(squares / total)
        self.count.copy_(total)

    def _normalised(self, observations: Tensor) -> Tensor:
        # Features that hardly vary are noise: the floor keeps them from being blown up.
        scaled = (observations - self.mean) / (self.variance + 1e-4).sqrt()
        return scaled.clamp(-self._limit, self._limit)


def policy_kwargs(hidden: Sequence[int], normalise: bool) -> dict[str, Any]:
    """What PPO and `make_policy` give to `ActorCriticPolicy`."""
    return {
        "net_arch": {"pi": list(hidden), "vf": list(hidden)},
        "activation_fn": torch.nn.Tanh,
        "features_extractor_class": ObservationNormaliser,
        "features_extractor_kwargs": {"normalise": normalise},
    }


def make_policy(
    actions: ActionSpec, hidden: Sequence[int], *, normalise: bool = True
) -> ActorCriticPolicy:
    """An untrained policy.

    Args:
        actions: what it controls.
        hidden: widths of its hidden layers.
        normalise: as `ObservationNormaliser` takes it (default: True).
    """
    return ActorCriticPolicy(
        observation_space(),
        actions.space,
        lambda _: 0.0,
        **policy_kwargs(hidden, normalise),
    )


def prefer_keeping(policy: ActorCriticPolicy, actions: ActionSpec, bias: float) -> None:
    """Let a new policy begin by mostly leaving things as they are.

    A policy that draws every choice as often as any other switches the optimizer in most
    decisions, and what a single switch is worth drowns (docs/control.md has what this helps).

    Args:
        policy: untrained; its heads are the outputs of its last layer, one after the other.
        actions: what it chooses among.
        bias: added to the logit of each head's choice that changes nothing: with `n` choices that
            has the probability `exp(bias) / (exp(bias) + n - 1)`.
    """
    place, logits = 0, cast("torch.nn.Linear", policy.action_net).bias
    with torch.no_grad():
        for head in actions.heads:
            if head.keep_place is not None:
                logits[place + head.keep_place] += bias
            place += len(head.choices)


class PolicyController:
    """A learned policy as a controller.

    Args:
        policy: the trained networks.
        actions: what the policy was trained to control, whatever the environment offers.
        deterministic: take the most probable choice; otherwise draw one (default: True).
        hidden_features: names of those that the policy has never seen but as 0.
        rhythm: decisions in a run of its training, and micro-batches between two (default: 30
            and 10).

    Attributes:
        actions: what the policy controls.
        rhythm: as it was given.
    """

    def __init__(
        self,
        policy: ActorCriticPolicy,
        actions: ActionSpec,
        deterministic: bool = True,
        hidden_features: Sequence[str] = (),
        rhythm: tuple[int, int] = (30, 10),
    ) -> None:
        policy.set_training_mode(False)
        self._policy = policy
        self.actions = actions
        self.rhythm = rhythm
        self._deterministic = deterministic
        self._hidden = feature_places(hidden_features)

    def begin(self, n_runs: int, actions: ActionSpec, seed: int) -> None:
        """Get ready for new runs."""
        self._generator = np.random.default_rng(seed)

    def warm_optimizers(self, own: str) -> list[str]:
        """Names of those that are to take in gradients from the beginning of a run.

        Args:
            own: that the run begins with. A policy that has one optimizer for all never comes
                back to it.
        """
        heads = (head for head in self.actions.heads if head.name == "optimizer")
        named = (str(name) for head in heads for name in head.choices)
        choices = {ALIASES.get(name, name) for name in named}
        return sorted((choices | {own} if len(choices) > 1 else choices) - {KEEP})

    def fingerprint(self) -> str:
        """A hash of all that its decisions depend on."""
        normalise = self._normaliser.normalise
        settings = [self.actions.to_json(), self._deterministic, self._hidden, normalise]
        digest = hashlib.sha256(json.dumps(settings).encode())
        for name, value in self._policy.state_dict().items():
            digest.update(name.encode())
            digest.update(value.cpu().numpy().tobytes())
        return digest.hexdigest()

    def decide(self, view: View) -> Decision:
        """The policy's choice, with its probabilities and its value."""
        view = self.seen(view)
        why = self.explain(view)
        return Decision(self.actions.apply(view.hyperparameters, why.action, view.stage), why)

    def seen(self, view: View) -> View:
        """The view as it was in the policy's training: what it has never seen is 0."""
        observation = view.observation.copy()
        observation[:, self._hidden] = 0
        return view._replace(observation=observation)

    def explain(self, view: View) -> Explanation:
        """What the policy would choose, and why."""
        # In full precision, whatever the training around it is in.
        with torch.no_grad(), torch.autocast("cpu", enabled=False):
            seen = self.seen(view).observation
            observation = torch.tensor(seen, device=self._normaliser.mean.device)
            distribution = self._policy.get_distribution(observation)
            value = self._policy.predict_values(observation)
            distance = self._normaliser.distance(observation)
        if not isinstance(distribution, MultiCategoricalDistribution):
            raise TypeError(f"expected categorical heads, got {type(distribution).__name__}")
        probabilities = [head.probs.double().numpy() for head in distribution.distribution]
        action = np.stack([self._choose(head) for head in probabilities], axis=1)
        return Explanation(
            action, probabilities, value.double().squeeze(1).numpy(), distance.double().numpy()
        )

    @property
    def _normaliser(self) -> ObservationNormaliser:
        extractor = self._policy.features_extractor
        if not isinstance(extractor, ObservationNormaliser):
            raise TypeError(f"expected an ObservationNormaliser, got {type(extractor).__name__}")
        return extractor

    def _choose(self, probabilities: np.ndarray) -> np.ndarray:
        if self._deterministic:
            return np.asarray(probabilities.argmax(1))
        # Inverse transform: the first choice whose cumulated probability passes a uniform draw.
        draws = self._generator.uniform(size=(len(probabilities), 1))
        passed = draws < probabilities.cumsum(1)
        passed[:, -1] = True
        return np.asarray(passed.argmax(1))
