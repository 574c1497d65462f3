"""The learned policy and its file."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from trainpilot.agents.controller import View
from trainpilot.agents.policy import ObservationNormaliser, PolicyController, make_policy
from trainpilot.agents.policy_file import load_policy, read_metadata, save_policy
from trainpilot.envs.actions import ActionSpec
from trainpilot.envs.config import ActionConfig
from trainpilot.envs.hyperparameters import Hyperparameters
from trainpilot.envs.observation import FEATURE_NAMES, FEATURES, schema_hash
from trainpilot.envs.single import observation_space
from trainpilot.inner_tasks import TrainpilotError

ACTIONS = ActionSpec(ActionConfig(weight_decay=[0.5, 1, 2]))


def observations(n_runs=50, seed=0):
    draw = np.random.default_rng(seed)
    return draw.normal(size=(n_runs, len(FEATURES))).astype(np.float32)


def view(n_runs=50):
    return View(observations(n_runs), Hyperparameters.full(n_runs), np.ones(n_runs), 0, 30)


@pytest.fixture
def policy():
    torch.manual_seed(0)
    policy = make_policy(ACTIONS, [16, 16])
    # Larger heads than at initialisation, where every choice is as likely.
    torch.nn.init.normal_(policy.action_net.weight)
    policy.features_extractor.update(observations(seed=1))
    return policy


@pytest.fixture
def path(policy, tmp_path):
    path = tmp_path / "policy.safetensors"
    save_policy(path, policy, ACTIONS, [16, 16], [], {"seed": 0})
    return path


def test_normaliser_equals_numpy():
    normaliser = ObservationNormaliser(observation_space())
    parts = [observations(n, seed) * (seed + 1) + seed for seed, n in enumerate((10, 300, 7))]
    for part in parts:
        normaliser.update(part)
    everything = np.concatenate(parts)
    np.testing.assert_allclose(normaliser.mean, everything.mean(0), atol=1e-5)
    np.testing.assert_allclose(normaliser.variance, everything.var(0), rtol=1e-4)
    out = normaliser(torch.as_tensor(everything))
    expected = (everything - everything.mean(0)) / np.sqrt(everything.var(0) + 1e-4)
    np.testing.assert_allclose(out, expected.clip(-5, 5), atol=1e-3)


def test_features_as_they_are_are_clipped_alone_and_as_far_away():
    seen = observations(300) * 4 + 1
    plain, scaled = (
        ObservationNormaliser(observation_space(), normalise=normalise)
        for normalise in (False, True)
    )
    for each in (plain, scaled):
        each.update(seen)
    np.testing.assert_array_equal(plain(torch.as_tensor(seen)), seen.clip(-5, 5))
    expected = scaled(torch.as_tensor(seen)).square().mean(1).sqrt()
    assert expected.mean() == pytest.approx(1, abs=0.05)
    for each in (plain, scaled):
        np.testing.assert_array_equal(each.distance(torch.as_tensor(seen)), expected)


@pytest.mark.parametrize("normalise", [False, True])
def test_a_file_says_whether_features_are_normalised(normalise, tmp_path):
    path = tmp_path / "policy.safetensors"
    torch.manual_seed(0)
    networks = make_policy(ACTIONS, [16, 16], normalise=normalise)
    networks.features_extractor.update(observations(seed=1) * 3)
    save_policy(path, networks, ACTIONS, [16, 16], [], {})
    assert read_metadata(path)["normalise_observations"] is normalise
    values = []
    for controller in (load_policy(str(path)), PolicyController(networks, ACTIONS)):
        controller.begin(50, ACTIONS, 0)
        values.append(controller.decide(view()).explanation.value)
    np.testing.assert_array_equal(*values)


def test_files_from_before_the_choice_are_of_normalised_features(policy, path, tmp_path):
    with safe_open(path, "pt") as file:
        metadata = json.loads(file.metadata()["trainpilot"])
    del metadata["normalise_observations"]
    old = tmp_path / "old.safetensors"
    save_file(load_file(path), old, {"trainpilot": json.dumps(metadata)})
    assert load_policy(str(old)).fingerprint() == load_policy(str(path)).fingerprint()


def test_the_same_weights_on_other_features_are_another_policy():
    fingerprints = set()
    for normalise in (False, True):
        torch.manual_seed(0)
        networks = make_policy(ACTIONS, [16, 16], normalise=normalise)
        fingerprints.add(PolicyController(networks, ACTIONS).fingerprint())
    assert len(fingerprints) == 2


def test_a_saved_policy_decides_as_before(policy, path):
    controllers = PolicyController(policy, ACTIONS), load_policy(str(path))
    decisions = []
    for controller in controllers:
        controller.begin(50, ACTIONS, 0)
        decisions.append(controller.decide(view()))
    np.testing.assert_array_equal(*(d.explanation.action for d in decisions))
    np.testing.assert_array_equal(*(d.explanation.value for d in decisions))
    np.testing.assert_array_equal(*(d.hyperparameters.learning_rate for d in decisions))
    assert len(np.unique(decisions[0].explanation.action, axis=0)) > 5


def test_features_that_were_hidden_in_training_stay_hidden(policy, tmp_path):
    path = tmp_path / "policy.safetensors"
    save_policy(path, policy, ACTIONS, [16, 16], ["age", "momentum"], {})
    seen = view()
    shown = seen.observation.copy()
    shown[:, [FEATURE_NAMES.index("age"), FEATURE_NAMES.index("momentum")]] = 0
    values = []
    for controller, each in (
        (load_policy(str(path)), seen),
        (PolicyController(policy, ACTIONS), seen._replace(observation=shown)),
        (PolicyController(policy, ACTIONS), seen),
    ):
        controller.begin(50, ACTIONS, 0)
        values.append(controller.decide(each).explanation.value)
    np.testing.assert_array_equal(values[0], values[1])
    assert (values[0] != values[2]).any()
    np.testing.assert_array_equal(seen.observation, observations())


def test_a_policy_that_never_saw_a_budget_follows_no_schedule():
    spec = ActionSpec(ActionConfig([1.0], optimizers=[], learning_rate_schedule="cosine"))
    networks = make_policy(spec, [8])
    seen = view()._replace(decision=15)
    seen.observation[:, FEATURE_NAMES.index("has_budget")] = 1
    rates = []
    for hidden in ([], ["has_budget"]):
        decision = PolicyController(networks, spec, hidden_features=hidden).decide(seen)
        rates.append(decision.hyperparameters.learning_rate)
    shares = [(1 + np.cos(np.pi * k / 30)) / 2 for k in (14, 15)]
    np.testing.assert_allclose(rates[0], 1e-3 * shares[1] / shares[0])
    np.testing.assert_array_equal(rates[1], 1e-3)


def test_the_choice_is_the_most_probable_one_and_is_applied(policy):
    controller = PolicyController(policy, ACTIONS)
    controller.begin(50, ACTIONS, 0)
    decision = controller.decide(view())
    why = decision.explanation
    for head, probabilities in enumerate(why.probabilities):
        np.testing.assert_allclose(probabilities.sum(1), 1, rtol=1e-5)
        np.testing.assert_array_equal(why.action[:, head], probabilities.argmax(1))
    asked = ACTIONS.apply(Hyperparameters.full(50), why.action)
    np.testing.assert_array_equal(decision.hyperparameters.learning_rate, asked.learning_rate)


def test_sampling_follows_the_probabilities_and_the_seed(policy):
    controller = PolicyController(policy, ACTIONS, deterministic=False)
    same = np.repeat(observations(1), 20_000, axis=0)
    wide = view(20_000)._replace(observation=same)
    drawn = []
    for seed in (0, 0, 1):
        controller.begin(20_000, ACTIONS, seed)
        drawn.append(controller.decide(wide).explanation)
    np.testing.assert_array_equal(drawn[0].action, drawn[1].action)
    assert (drawn[0].action != drawn[2].action).any()
    for head, probabilities in enumerate(drawn[0].probabilities):
        counts = np.bincount(drawn[0].action[:, head], minlength=probabilities.shape[1])
        np.testing.assert_allclose(counts / 20_000, probabilities[0], atol=0.015)


def rewrite(path, change):
    tensors = load_file(path)
    with safe_open(path, framework="pt") as file:
        metadata = json.loads(file.metadata()["trainpilot"])
    change(metadata, tensors)
    save_file(tensors, path, {"trainpilot": json.dumps(metadata)})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda m, t: m.update(format="other"), "must be one that 'trainpilot train' wrote"),
        (lambda m, t: m.update(format_version=99), "files of format 1; given: .* of format 99"),
        (lambda m, t: m.pop("actions"), "must hold observation, actions and hidden"),
        (
            lambda m, t: m["observation"].update(schema_hash="0123"),
            f"observation schema {schema_hash()}; given: .* for schema 0123",
        ),
        (lambda m, t: m.update(hidden=[8]), "weights must fit its metadata"),
        (lambda m, t: t.pop("action_net.bias"), "weights must fit its metadata"),
    ],
)
def test_a_faulty_file_is_refused_in_a_sentence(path, change, message):
    rewrite(path, change)
    with pytest.raises(TrainpilotError, match=message):
        load_policy(str(path))


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(TrainpilotError, match=r"given: .*none.safetensors, where there is no"):
        load_policy(str(tmp_path / "none.safetensors"))


@pytest.mark.parametrize("keep", [0, 5, 100, 3000])
def test_a_file_cut_short_is_refused(path, keep):
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(TrainpilotError, match=r"whole safetensors file.*cut short or damaged"):
        load_policy(str(path))


def test_a_pickle_is_refused_and_never_run(tmp_path):
    path = tmp_path / "policy.safetensors"

    class Bomb:
        def __reduce__(self):
            return (open, (str(tmp_path / "exploded"), "w"))

    torch.save({"weights": Bomb()}, path)
    with pytest.raises(TrainpilotError, match="whole safetensors file"):
        load_policy(str(path))
    assert not (tmp_path / "exploded").exists()


def test_metadata_tells_what_the_policy_is(path):
    metadata = read_metadata(path)
    assert metadata["observation"]["features"] == [name for name, _, _ in FEATURES]
    assert metadata["actions"] == ACTIONS.to_json()
    assert metadata["training"] == {"seed": 0}
