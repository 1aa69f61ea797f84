"""The simulator: nothing is lost, nothing happens twice, no step is too large."""

from collections import defaultdict

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fastkernels_env.capture.traffic import Chunk, Lengths, Request, Server, Step, Token, TrafficError, simulate

REQUESTS = st.lists(
    st.builds(Request, prompt=st.integers(1, 60), output=st.integers(1, 12), arrival=st.integers(0, 40)), max_size=25
)
SERVERS = st.builds(
    Server, max_tokens=st.integers(60, 150), max_batch=st.integers(1, 12), chunked=st.booleans(), mixed=st.booleans()
) | st.builds(Server, max_tokens=st.integers(1, 60), max_batch=st.integers(1, 30), chunked=st.just(True), mixed=st.booleans())


@settings(max_examples=200)
@given(requests=REQUESTS, server=SERVERS)
def test_every_token_is_processed_exactly_once_and_in_order(requests, server):
    prompts, lengths = defaultdict(list), defaultdict(list)
    for step in simulate(requests, server):
        for chunk in step.prefill:
            assert not lengths[chunk.request], "a prompt is whole before its request goes on"
            prompts[chunk.request] += range(chunk.start, chunk.start + chunk.count)
        for token in step.decode:
            assert len(prompts[token.request]) == requests[token.request].prompt
            lengths[token.request].append(token.length)
    for number, request in enumerate(requests):
        assert prompts[number] == list(range(request.prompt))
        # The first token comes out of the prompt's last step; each other is computed from the one before it.
        assert lengths[number] == list(range(request.prompt + 1, request.prompt + request.output))


@settings(max_examples=200)
@given(requests=REQUESTS, server=SERVERS)
def test_no_step_exceeds_the_server(requests, server):
    running, left = set(), {number: request.output for number, request in enumerate(requests)}
    for step in simulate(requests, server):
        assert 1 <= step.tokens <= server.max_tokens
        assert server.mixed or not (step.prefill and step.decode)
        part = [*(chunk.request for chunk in step.prefill), *(token.request for token in step.decode)]
        assert len(part) == len(set(part)), "a request takes part once"
        running |= set(part)
        assert len(running) <= server.max_batch
        if not server.chunked:
            assert all(chunk.count == requests[chunk.request].prompt for chunk in step.prefill)
        for chunk in step.prefill:
            left[chunk.request] -= chunk.start + chunk.count == requests[chunk.request].prompt
        for token in step.decode:
            left[token.request] -= 1
        running -= {number for number in running if not left[number]}
    assert not any(left.values())


@given(requests=REQUESTS, server=SERVERS)
def test_a_simulation_is_a_function_of_its_arguments(requests, server):
    assert simulate(requests, server) == simulate(list(requests), server)


def test_prompts_come_first_and_are_packed():
    steps = simulate([Request(prompt=6, output=2), Request(prompt=6, output=3)], Server(max_tokens=8))
    assert steps == [
        Step((Chunk(0, 0, 6), Chunk(1, 0, 2))), Step((Chunk(1, 2, 4),)), Step((), (Token(0, 7), Token(1, 7))), Step((), (Token(1, 8),)),
    ]


def test_running_requests_come_first_where_steps_are_shared():
    steps = simulate([Request(prompt=2, output=3), Request(prompt=6, output=1, arrival=1)], Server(max_tokens=4, mixed=True))
    assert [(step.kind, step.tokens) for step in steps] == [("prefill", 2), ("mixed", 4), ("mixed", 4)]


def test_without_chunks_a_prompt_waits_for_a_step_of_its_own():
    steps = simulate([Request(prompt=6, output=1), Request(prompt=6, output=1)], Server(max_tokens=8, chunked=False))
    assert [step.tokens for step in steps] == [6, 6]


@pytest.mark.parametrize(("make", "message"), [
    (lambda: Lengths(median=0), "expected lengths with median above 0"),
    (lambda: Lengths(median=5, low=9, high=3), "1 <= low <= high"),
    (lambda: Server(max_tokens=0), "expected max_tokens and max_batch of at least 1, got 0"),
    (lambda: simulate([Request(prompt=0, output=1)], Server()), "a prompt and an output of at least one token"),
    (lambda: simulate([Request(prompt=9, output=1)], Server(max_tokens=8, chunked=False)), "has 9 prompt tokens, a step at most 8"),
])
def test_what_cannot_be_is_named(make, message):
    with pytest.raises(TrafficError, match=message):
        make()


@given(seed=st.integers(0, 1000), median=st.floats(2, 500), sigma=st.floats(0, 1.5))
def test_lengths_stay_in_their_range(seed, median, sigma):
    import random

    lengths = Lengths(median=median, sigma=sigma, low=3, high=400)
    drawn = lengths.draw(random.Random(seed), 30)
    assert all(3 <= length <= 400 for length in drawn)
    assert drawn == lengths.draw(random.Random(seed), 30)
