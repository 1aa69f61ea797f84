"""A real OpenEnv server in a process of its own, and OpenEnv's own client, with the real package where it is installed."""

import asyncio
import contextlib
import json
import os
import re
import socket
import subprocess
import sys
import time
import urllib.request

import pytest

pytest.importorskip("openenv.core.env_server", reason="needs openenv", exc_type=ImportError)

SERVER = '''
from fastkernels_env.integrations.grader import Grader
from fastkernels_env.integrations.openenv import make_app

app = make_app(Grader(device="cpu", judges=1, log={log!r}), turns=2, device="cpu", tasks=["tiny_scale"], hold_out_tasks=0)
'''


@pytest.fixture(scope="module")
def log(tmp_path_factory):
    return tmp_path_factory.mktemp("openenv") / "log.jsonl"


@pytest.fixture(scope="module")
def url(host_cache, tiny_root, log, tmp_path_factory):
    """Of a server that closes a connection if a ping is not answered within ten seconds, as long as a judge may take."""
    folder = tmp_path_factory.mktemp("server")
    (folder / "server.py").write_text(SERVER.format(log=str(log)))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [
        sys.executable, "-m", "uvicorn", "server:app", "--host", "127.0.0.1", "--port", str(port), "--log-level", "warning",
        "--ws-ping-interval", "0.5", "--ws-ping-timeout", "10",
    ]
    server = subprocess.Popen(command, cwd=folder, env=os.environ | {"FASTKERNELS_ENV_PATH": str(tiny_root)})
    try:
        address = f"http://127.0.0.1:{port}"
        _wait(f"{address}/health", server)
        yield address
    finally:
        server.terminate()
        server.wait(30)


def _wait(address, server):
    end = time.monotonic() + 120
    while time.monotonic() < end and server.poll() is None:
        with contextlib.suppress(OSError), urllib.request.urlopen(address, timeout=5):
            return
        time.sleep(0.1)
    pytest.fail(f"no server: {server.poll()}")


def client(url):
    from openenv import GenericEnvClient

    return GenericEnvClient(base_url=url, message_timeout_s=300, websocket_ping_interval_s=0.5, websocket_ping_timeout_s=10)


@pytest.fixture
def seed(tiny):
    from fastkernels_env.spaces import seed_replies

    return seed_replies(tiny, "cpu")[0]


@pytest.fixture
def silent(seed):
    """Leaves the last rows of a batch that is no multiple of four: the public shapes have sixteen."""
    return re.sub(r"rows = input.size\(0\)", "rows = input.size(0) / 4 * 4", seed)


def test_two_sessions_at_once(url, log, seed, silent):
    from fastkernels_env import read_log

    async def episodes():
        async with client(url) as first, client(url) as second:
            starts = [await first.reset(split="train", index=0), await second.reset(seed=3, episode_id="mine")]
            turns = await asyncio.gather(first.step({"text": seed}), second.step({"text": silent}))
            states = [await first.state(), await second.state()]
            turns += [await second.step({"text": "no code"})]
            return starts, turns, states

    starts, turns, states = asyncio.run(episodes())
    assert all("tiny_scale" in start.observation["prompt"] and start.reward is None and not start.done for start in starts)
    assert [turn.observation["outcome"] for turn in turns] == ["accepted", "silent_error", "rejected"]
    good, bad, worse = turns
    assert good.reward > 0 > worse.reward > bad.reward
    assert (good.done, bad.done, worse.done) == (False, False, True)
    assert good.reward == pytest.approx(good.observation["metrics"]["reward/total"])
    assert "hidden" in bad.observation["feedback"]
    assert [state["step_count"] for state in states] == [1, 1]
    assert states[1]["episode_id"] == "mine"
    assert all(state["task"].startswith("tiny_scale[") for state in states)
    contexts = {(record.context.episode, record.context.turn) for record in read_log(log)}
    assert {("mine", 0), ("mine", 1)} <= contexts


@pytest.mark.parametrize(("options", "message"), [
    ({"split": "nope"}, "'nope'"), ({"taks": "rms_norm"}, "taks"), ({"index": 99}, "99"),
])
def test_a_reset_that_cannot_be_done_says_why_and_the_session_goes_on(url, options, message):
    async def episode():
        async with client(url) as session:
            with pytest.raises(RuntimeError, match=message):
                await session.reset(**options)
            return await session.reset()

    assert asyncio.run(episode()).observation["prompt"]


def test_a_step_needs_a_running_episode(url):
    async def episode():
        async with client(url) as session:
            with pytest.raises(RuntimeError, match="call reset first"):
                await session.step({"text": "too early"})
            await session.reset()
            with pytest.raises(RuntimeError, match="VALIDATION_ERROR"):
                await session.step({"code": "not a field"})
            return await session.step({"text": "no code"})

    assert asyncio.run(episode()).observation["outcome"] == "rejected"


def test_the_task_api_lists_the_rows(url):
    def ask(path, **body):
        request = urllib.request.Request(f"{url}/fastkernels/{path}", json.dumps(body).encode(), {"Content-Type": "application/json"})
        with urllib.request.urlopen(request) as answer:
            return json.load(answer)

    count = ask("num_tasks", split="train")["num_tasks"]
    assert count >= 1
    assert ask("task", split="train", index=count - 1)["task"]["task"].startswith("tiny_scale[")
