"""`trainpilot evaluate`: compare controllers, other optimizers and searches on the same runs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig

from trainpilot.agents.config import EvaluateConfig
from trainpilot.agents.evaluation.contenders import Contender, complete, make_contenders
from trainpilot.agents.evaluation.evaluating import Evaluation
from trainpilot.agents.evaluation.policy_ablations import parts_of, without_feedback
from trainpilot.agents.evaluation.report.writing import write_report
from trainpilot.agents.evaluation.results import results
from trainpilot.agents.evaluation.table import print_summary
from trainpilot.agents.files import write_json
from trainpilot.agents.hydra_app import output_folder, run_app, say, typed
from trainpilot.agents.picture import draw_runs
from trainpilot.agents.policy import PolicyController
from trainpilot.agents.records import write_decisions
from trainpilot.agents.run import Run
from trainpilot.inner_tasks.catalogue import make_tasks, make_trainable, one_by_one
from trainpilot.inner_tasks.describing import describe_model, n_parameters
from trainpilot.inner_tasks.protocol import InnerTask

#: Kinds whose runs are drawn: a picture of all would show nothing.
_DRAWN = ("policy", "heuristic", "shared")


def evaluate(config: EvaluateConfig) -> None:
    """Run everyone on every task; leaves results, a report, records and pictures."""
    folder = output_folder()
    config.validate()
    contenders, references = complete(
        make_contenders(config.controller, config.method), config.references
    )
    given = make_tasks(config.suite.tasks) if config.task is None else [make_trainable(config.task)]
    tasks = one_by_one(given, config.tasks_of_family)
    cache = None if config.cache is None else Path(config.cache)
    evaluation = Evaluation(
        tasks,
        range(config.seed, config.seed + config.n_seeds),
        config.env,
        cache,
        config.n_workers,
    )
    names = [task.name for task in tasks]
    try:
        runs = evaluation.runs({name: contenders for name in names}, "evaluating")
        if config.ablations:
            for own in _ablations(contenders, runs, names, config.env.decisions):
                runs += evaluation.runs(own, "taking the policy apart")
                contenders += own[names[0]]
    except KeyboardInterrupt:
        if cache is not None:
            say(f"what was finished is in {cache}: the same command goes on from there")
        raise
    if evaluation.n_cached:
        say(f"{evaluation.n_cached} of {len(runs)} runs were known already, from {cache}")
    found = results(
        runs,
        [_described(task, config) for task in tasks],
        {
            line: {"kind": each.kind, "description": each.description}
            for each in contenders
            for line in each.lines
        },
        references,
        _settings(config, tasks, contenders),
    )
    write_json(folder / "results.json", found)
    write_decisions(folder / "decisions.parquet", runs)
    drawn = {each.name for each in contenders if each.kind in _DRAWN}
    for name in names:
        first = [run for run in runs if run.task == name and run.seed == config.seed]
        draw_runs(folder / f"{name}.png", [run for run in first if run.controller in drawn])
    write_report(folder / "results.json")
    print_summary(found)
    say(f"report.html, report.md, results.json, decisions.parquet and pictures are in {folder}")


def _ablations(
    contenders: list[Contender], runs: list[Run], names: list[str], decisions: int
) -> list[dict[str, list[Contender]]]:
    """For each policy, what it is compared with to see what of it does the work, by task."""
    found = []
    for each in contenders:
        if isinstance(each.made, PolicyController):
            own = [run for run in runs if run.controller == each.name]
            replayed = without_feedback(each.name, each.made, own, decisions)
            parts = parts_of(each.name, each.made)
            found.append({name: [*replayed[name], *parts] for name in names})
    return found


def _described(task: InnerTask, config: EvaluateConfig) -> dict[str, Any]:
    """What `results.json` says of a task."""
    model = task.make_model()
    first = task.splits.valid
    with torch.no_grad():
        metrics = task.metrics(model.eval()(first.inputs[:8]), first.targets[:8])
    return {
        "name": task.name,
        "modality": task.modality,
        "dataset": task.dataset,
        "model": describe_model(model),
        "n_params": n_parameters(model),
        "micro_batch_size": task.micro_batch_size,
        "budget": config.env.n_micro_batches * task.micro_batch_size,
        "metrics": list(metrics),
    }


def _settings(
    config: EvaluateConfig, tasks: list[InnerTask], contenders: list[Contender]
) -> dict[str, Any]:
    """What `results.json` says of the evaluation."""
    usual = "shared_fixed" if "shared_fixed" in config.references else "adam_default"
    return {
        "suite": config.suite.name if config.task is None else tasks[0].name,
        "policy": config.policy if any(each.kind == "policy" for each in contenders) else None,
        "n_seeds": config.n_seeds,
        "seed": config.seed,
        "decisions": config.env.decisions,
        "micro_batches_per_decision": config.env.micro_batches_per_decision,
        "algoperf_reference": config.algoperf_reference or usual,
        "energy_watts": config.energy_watts,
    }


def _job(config: DictConfig) -> None:
    evaluate(typed(config, EvaluateConfig))


def main() -> None:
    """The command."""
    run_app("evaluate", _job)


if __name__ == "__main__":
    main()
