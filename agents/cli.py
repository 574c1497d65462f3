"""The command `trainpilot`."""

from __future__ import annotations

import os
import sys
from importlib import import_module
from importlib.metadata import version

USAGE = """\
trainpilot: an autopilot for neural-network training

usage: trainpilot COMMAND [SETTING=VALUE ...] [--multirun] [--cfg job] [--help]
       trainpilot report RESULTS.JSON [--out DIR]

commands:
  train        meta-train a policy on a suite of tasks       leaves policy.safetensors
  deploy       train a task's model under a learned policy   leaves model.safetensors
  evaluate     compare the policy with heuristics            leaves results.json
  report       draw the report of an evaluation            leaves report.html
  check-task   check a task against the contract           says what it found
  tasks        list the tasks that ship (--json: as JSON)
  controllers  list the controllers that ship

Settings are Hydra overrides. Some that are often wanted:
  trainpilot train suite=meta_train agent.total_decisions=100000 hydra.run.dir=outputs/mine
  trainpilot deploy policy=outputs/mine/policy.safetensors task=wine_mlp
  trainpilot evaluate policy=outputs/mine/policy.safetensors suite=meta_test n_seeds=20
  trainpilot check-task task=custom task._target_=my_task.moons
  trainpilot COMMAND --cfg job      show every setting and its value
  trainpilot COMMAND --help         show the groups and what each offers
"""

#: Imported only when asked for, so that help comes at once.
_VERBS = ("train", "deploy", "evaluate", "report", "check-task")
_LISTS = {"tasks": "list_tasks", "controllers": "list_controllers"}


def main() -> None:
    """Dispatch to the command that the first argument names."""
    try:
        _dispatch()
    except BrokenPipeError:
        # Whoever read our output, such as `head`, has had enough: nothing is left to be flushed.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)


def _dispatch() -> None:
    arguments = sys.argv[1:]
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(USAGE, end="")
        return
    command = arguments[0]
    if command == "--version":
        print(f"trainpilot {version('trainpilot')}")
        return
    if command == "tasks" and arguments[1:] == ["--json"]:
        import_module("trainpilot.agents.listing").list_tasks(as_json=True)
        return
    if command in _LISTS:
        if arguments[1:] in (["-h"], ["--help"]):
            print(USAGE, end="")
            return
        if len(arguments) > 1:
            allowed = "--json" if command == "tasks" else "none"
            given = " ".join(arguments[1:])
            print(
                f"trainpilot {command}: settings must be of these: {allowed}; given: {given}",
                file=sys.stderr,
            )
            sys.exit(2)
        getattr(import_module("trainpilot.agents.listing"), _LISTS[command])()
        return
    if command not in _VERBS:
        allowed = ", ".join((*_VERBS, *_LISTS))
        print(f"trainpilot: unknown command '{command}'; allowed: {allowed}", file=sys.stderr)
        sys.exit(2)
    del sys.argv[1]
    import_module(f"trainpilot.agents.{command.replace('-', '_')}").main()


if __name__ == "__main__":
    main()
