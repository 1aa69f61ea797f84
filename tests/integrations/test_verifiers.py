"""The taskset in verifiers' own commands, with the real package where it is installed. The model is a server of the test."""

import asyncio
import json
import sys

import pytest

pytest.importorskip("verifiers.v1", reason="needs verifiers", exc_type=ImportError)

MODULE = '''
import httpx
import verifiers.v1 as vf

from fastkernels_env.integrations.verifiers import KernelTaskset


class OneRequest(vf.Harness[vf.HarnessConfig]):
    """Asks the model once, from this process: verifiers' own harnesses install programs first, which needs a network."""

    EXECUTES_CODE = NEEDS_CONTAINER = False

    async def launch(self, ctx, trace, runtime, endpoint, secret, mcp_urls, data):
        _, prompt = self.resolve_prompt(data)
        body = {"model": ctx.model, "messages": [{"role": "user", "content": prompt}]}
        async with httpx.AsyncClient(timeout=60) as client:
            answer = await client.post(f"{endpoint}/chat/completions", json=body, headers={"Authorization": f"Bearer {secret}"})
            answer.raise_for_status()
        return vf.ProgramResult(exit_code=0, stdout="", stderr="")


__all__ = ["KernelTaskset", "OneRequest"]
'''


@pytest.fixture
def folder(tiny, tmp_path, monkeypatch):
    """Where the user's module lies; verifiers keeps its runtimes below it too."""
    from verifiers.v1.runtimes import subprocess as runtimes

    (tmp_path / "tiny_kernels.py").write_text(MODULE)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "tiny_kernels", raising=False)
    monkeypatch.setattr(runtimes, "CACHE_DIR", tmp_path / "cache")
    return tmp_path


@pytest.fixture(scope="module")
def log(tmp_path_factory):
    """The same for all tests, so that they share a grader."""
    return tmp_path_factory.mktemp("verifiers") / "log.jsonl"


@pytest.fixture
def taskset(log):
    """What a user writes into a TOML file."""
    judging = {"device": "cpu", "judges": 1, "log": str(log)}
    return {"id": "tiny_kernels", "split": "all", "tasks": ["tiny_scale"], "task": {"grader": judging}}


@pytest.fixture
def seed(tiny):
    from fastkernels_env.spaces import seed_replies

    return seed_replies(tiny, "cpu")[0]


def test_tasks_are_the_rows(folder, taskset):
    import verifiers.v1 as vf

    from fastkernels_env.dataset import rows

    config = vf.taskset_config_type("tiny_kernels").model_validate(taskset)
    tasks = list(vf.load_taskset(config))
    expected = rows("all", device="cpu", tasks=["tiny_scale"])
    assert [(task.data.id, task.data.prompt_text, task.data.prompt_hash) for task in tasks] == [
        (row["task"], row["prompt_text"], row["prompt_hash"]) for row in expected
    ]


def test_validate_accepts_the_seed_and_not_the_silence(folder, taskset):
    """Its gold check submits the seed; its other check scores a task that nobody worked on, which must not pass."""
    from verifiers.v1.cli.validate import run_validate
    from verifiers.v1.configs.cli.validate import ValidateConfig

    config = ValidateConfig.model_validate({
        "taskset": taskset, "runtime": {"type": "subprocess"}, "rich": False, "output_dir": folder / "out", "select": {"limit": 1},
    })
    (row,) = asyncio.run(run_validate(config))
    assert (row["reason"], row["error"]) == ("valid", None)
    assert row["gold"]["reason"] == "valid"
    assert row["noop"]["rewards"]["outcome"] < 0


@pytest.fixture
def model(seed):
    """A server that speaks OpenAI's protocol and replies with the seed, then with prose."""
    replies = [seed, "I would rather not."]

    async def serve():
        from aiohttp import web

        async def complete(request):
            content = replies[len(asked) % len(replies)]
            asked.append(await request.json())
            return web.json_response({
                "id": "1", "object": "chat.completion", "created": 0, "model": "fake", "usage": None,
                "choices": [{"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": content}}],
            })

        app = web.Application()
        app.router.add_post("/v1/chat/completions", complete)
        runner = web.AppRunner(app)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        return runner, f"http://127.0.0.1:{runner.addresses[0][1]}/v1"

    asked = []
    return serve, asked


def test_eval_and_replay(folder, taskset, model, log):
    """Two rollouts through verifiers' runner; then the same traces under another preset, and no judge is asked again."""
    from fastkernels_env import load_preset, read_log

    episodes, out = asyncio.run(_evaluate(taskset, model, folder))
    first, second = (episode.traces[0] for episode in episodes)
    assert all(episode.ok for episode in episodes), [episode.errors for episode in episodes]
    assert (first.metrics["outcome/accepted"], second.metrics["outcome/rejected"]) == (1.0, 1.0)
    assert set(first.rewards) == set(second.rewards) == set(load_preset("production").part_names)
    records = {record.context.episode: record for record in read_log(log)}
    for trace in (first, second):
        assert trace.reward == pytest.approx(load_preset("production").score(records[trace.id]).total)
    assert first.reward > 0 > second.reward

    replayed = asyncio.run(_replay(taskset, out, folder))
    assert [trace.reward for trace in replayed] == [
        pytest.approx(load_preset("kevin").score(records[trace.id]).total) for trace in (first, second)
    ]
    assert len(read_log(log)) == len(records)


def test_a_fault_fails_the_trace_and_pays_nothing(folder, taskset, model):
    """No judge answers within a millisecond."""
    hurried = taskset | {"task": {"grader": taskset["task"]["grader"] | {"log": None, "deadline": 0.001}}}
    episodes, _ = asyncio.run(_evaluate(hurried, model, folder))
    for trace in (episode.traces[0] for episode in episodes):
        assert not trace.ok
        assert "not the reply" in trace.last_error.message
        assert trace.rewards == {"parts": None}


@pytest.mark.parametrize(("change", "message"), [({"split": "dev"}, "'dev'"), ({"tasks": []}, "try split 'all'")])
def test_a_taskset_that_cannot_be(folder, taskset, change, message):
    import verifiers.v1 as vf

    config = vf.taskset_config_type("tiny_kernels").model_validate(taskset | change)
    with pytest.raises(ValueError, match=message):
        list(vf.load_taskset(config))


async def _evaluate(taskset, model, folder):
    from verifiers.v1.cli.eval.runner import run_eval
    from verifiers.v1.cli.output import output_path
    from verifiers.v1.configs.cli.eval import EvalConfig

    serve, asked = model
    runner, url = await serve()
    config = EvalConfig.model_validate({
        "env": {"taskset": taskset, "agent": {"runtime": {"type": "subprocess"}}},
        "model": "fake", "client": {"base_url": url, "api_key_var": "NO_SUCH_KEY"}, "select": {"limit": 1}, "num_rollouts": 2,
        "max_concurrent": 1, "push": False, "rich": None, "output_dir": folder / "out",
    })
    try:
        episodes = await run_eval(config)
    finally:
        await runner.cleanup()
    assert "tiny_scale" in json.dumps(asked[0]["messages"])
    return episodes, output_path(config)


async def _replay(taskset, source, folder):
    from verifiers.v1.cli.replay import run_replay
    from verifiers.v1.configs.cli.replay import ReplayConfig

    changed = taskset | {"task": {"grader": taskset["task"]["grader"] | {"reward": "kevin"}}}
    config = ReplayConfig.model_validate({"taskset": changed, "rich": False, "output_dir": folder / "replay"})
    return await run_replay(config, source, folder / "replay")
