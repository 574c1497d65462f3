"""What observing costs: the share of a decision that signals and features take."""

from __future__ import annotations

from statistics import median
from unittest import mock

from engines import STEPS, mixed
from left_out import no_update, update_without_sums, with_update
from measuring import TURNS, Timed, in_turns, median_difference
from subjects import SUBJECTS

from trainpilot.envs import engine as engine_module
from trainpilot.envs.config import EnvConfig
from trainpilot.envs.inner_runs import InnerRuns


def share_of_the_observation(n_runs: int = 48) -> dict[str, float]:
    """Sums, signals and features over a whole decision of the environment.

    The sums are part of the update's one pass, and measured by leaving them out. Beside them, in
    no sum with them: the whole update, and the evaluation.
    """
    config = EnvConfig(micro_batches_per_decision=STEPS, compiled=True)
    runs, settings = InnerRuns(SUBJECTS["mlp"](), n_runs, config), mixed(n_runs)
    engine = runs.engine
    without_sums, without_update = update_without_sums(engine), no_update(engine)
    signals = Timed(engine_module.make_signals)
    observer = runs._observer
    features = Timed(observer.observe)
    evaluation = Timed(engine.evaluate)

    def decide() -> None:
        with (
            mock.patch.object(engine_module, "make_signals", signals),
            mock.patch.object(observer, "observe", features),
            mock.patch.object(engine, "evaluate", evaluation),
        ):
            runs.step(settings)

    def advance() -> None:
        engine.advance(settings, STEPS)

    # Each turn begins anew, so that all have the same to do: moments that fade away to denormal
    # numbers make the update of a run's later steps slower.
    taken = in_turns(
        {
            "reset": lambda: runs.reset(range(n_runs), range(n_runs)),
            "decision": decide,
            "advance": advance,
            "without_sums": with_update(engine, without_sums, advance),
            "without_update": with_update(engine, without_update, advance),
        },
        6 * TURNS,
    )
    decision = median(taken["decision"])
    shares = {
        "sums_share": median_difference(taken, "advance", "without_sums") / decision,
        "signals_share": median(signals.seconds) / decision,
        "features_share": median(features.seconds) / decision,
    }
    return {
        "observation_share": sum(shares.values()),
        **shares,
        "update_share": median_difference(taken, "advance", "without_update") / decision,
        "evaluation_share": median(evaluation.seconds) / decision,
        "decision_seconds": decision,
    }
