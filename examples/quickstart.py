"""Quickstart: one episode of two turns on a CPU. A list of replies stands in for the language model.

The first reply is a kernel that a loose unit test accepts and production would not: it drops the last row unless the number of rows
is a multiple of 16. The second is the task's own C++ seed.

    python examples/quickstart.py

Expected output, from a busy host with two cores (long lines cut here). The failing case is drawn anew every time. The speedup is the
host's: where its interval contains 1, the part `speed` is 0 and the second score 1.

    prompt: 6939 characters, it begins: Write a fast and correct kernel for `rms_norm`. ...

    turn 1: silent_error, score -0.755, step reward -0.755
      outcome -0.900, correctness +0.100, checks +0.045, speed +0.000
      speedup 4.68, 95 % interval 3.64 to 76.29
      Outcome: silent_error. Passes the smoke check, but hidden_shapes failed: out: 512 of 146432 elements are NaN or ...

    turn 2: accepted, score 1.499, step reward 2.253
      outcome +1.050, correctness +0.000, checks +0.050, speed +0.399
      speedup 4.08, 95 % interval 2.42 to 4.60
      Outcome: accepted. Every check that is required on this device passed.

    sum of step rewards 1.499, best score 1.499

The step rewards sum to the best score: a turn is paid what it adds to it (credit="improvement").
"""

from __future__ import annotations

import argparse

import gymnasium as gym

import fastkernels_env


def write_replies() -> list[str]:
    """What a model might answer: a silently wrong kernel, then a right one, each in a fenced block."""
    task = fastkernels_env.load_task("rms_norm")
    mutant = next(mutant for mutant in task.mutants() if mutant.name == "dropped_last_row")
    return [f"Here is my kernel:\n\n```cpp\n{code}```\n" for code in (task.mutate(mutant), task.seeds()["cpu.cpp"])]


def main() -> None:
    parser = argparse.ArgumentParser(description="One episode of two turns on a CPU.")
    parser.add_argument("--effort", choices=("quick", "full"), default="quick", help="full also times torch.compile, on all shapes")
    parser.add_argument("--log", help="JSONL file to which both evaluations are appended")
    options = parser.parse_args()

    env = gym.make("FastKernels/rms_norm-v0", device="cpu", max_turns=2, effort=options.effort, log=options.log)
    observation, info = env.reset(seed=0, options={"run": "quickstart"})
    print(f"prompt: {len(observation['prompt'])} characters, it begins: {observation['prompt'].splitlines()[0]}")

    total = 0.0
    for reply in write_replies():
        observation, reward, terminated, truncated, info = env.step(reply)
        total += float(reward)
        parts = [f"{key.removeprefix('reward/')} {value:+.3f}" for key, value in info.items() if key.startswith("reward/")]
        print(f"\nturn {observation['turn']}: {info['outcome']}, score {info['score']:.3f}, step reward {reward:.3f}")
        print("  " + ", ".join(parts))
        if info["speedup"]:
            print(f"  speedup {info['speedup']:.2f}, 95 % interval {info['speedup_low']:.2f} to {info['speedup_high']:.2f}")
        print("  " + observation["feedback"].splitlines()[0])
        if terminated or truncated:
            break

    print(f"\nsum of step rewards {total:.3f}, best score {float(observation['best_score']):.3f}")
    env.close()


if __name__ == "__main__":
    main()
