"""Quickstart: one episode of two turns on a CPU. A list of replies stands in for the language model.

The first reply is a kernel that a loose unit test accepts and production would not: it drops the last row unless the number of
rows is a multiple of 16. The second is the task's own C++ seed.

    python examples/quickstart.py

Expected output. The sizes of the failing case are drawn anew every time, and the speedup is that of one shared two-core host: expect
other numbers, and a third turn's worth of difference between hosts in the part `speed`.

"""

from __future__ import annotations

import argparse

import gymnasium as gym

import fastkernels_env


def replies_of(task_name: str) -> list[str]:
    """What a model might have answered: a silently wrong kernel, then a right one, each in a fenced block."""
    task = fastkernels_env.load_task(task_name)
    mutant = next(mutant for mutant in task.mutants() if mutant.name == "dropped_last_row")
    return [f"Here is my kernel:\n\n```cpp\n{code}```\n" for code in (task.mutate(mutant), task.seeds()["cpu.cpp"])]


def main() -> None:
    parser = argparse.ArgumentParser(description="One episode of two turns on a CPU.")
    parser.add_argument("--effort", choices=("quick", "full"), default="quick", help="full is what scores are reported with")
    parser.add_argument("--log", help="JSONL file to which both evaluations are appended")
    options = parser.parse_args()

    env = gym.make("FastKernels/rms_norm-v0", device="cpu", max_turns=2, effort=options.effort, log=options.log)
    observation, info = env.reset(seed=0, options={"run": "quickstart"})
    print(f"prompt: {len(observation['prompt'])} characters, it begins: {observation['prompt'].splitlines()[0]}")

    total, ended = 0.0, False
    for reply in replies_of("rms_norm"):
        assert not ended
        observation, reward, terminated, truncated, info = env.step(reply)
        total, ended = total + float(reward), terminated or truncated
        parts = {key.removeprefix("reward/"): value for key, value in info.items() if key.startswith("reward/")}
        print(f"\nturn {observation['turn']}: {info['outcome']}, score {info['score']:.3f}, step reward {reward:.3f}")
        print("  " + ", ".join(f"{name} {value:+.3f}" for name, value in parts.items()))
        if info["speedup"]:
            print(f"  speedup {info['speedup']:.2f}, 95 % interval {info['speedup_low']:.2f} to {info['speedup_high']:.2f}")
        print("  " + observation["feedback"].splitlines()[0])

    print(f"\nsum of step rewards {total:.3f}, best score {float(observation['best_score']):.3f}")
    env.close()


if __name__ == "__main__":
    main()
