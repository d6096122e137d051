"""CPU time of the largest JSON bodies, right and wrong, from the bytes to the validated document or its errors.

    python -m benchmarks.hostile.bodies                   # known worst cases, then 2,000 made at random
    python -m benchmarks.hostile.bodies --count 20000

Bodies have up to 1 MiB, the limit of every path that takes JSON. A random body repeats a random value in a random
place of a request until it has 1 MiB or the greatest number of values.
"""

from __future__ import annotations

import argparse
import gc
import json
import random
from collections.abc import Iterator
from time import process_time
from typing import Any

from gradinspect.contracts.document import MAX_VALUES, from_request
from gradinspect.contracts.problems import ProblemError
from gradinspect.contracts.request.policy import Policy
from gradinspect.contracts.request.request import InspectionRequest
from gradinspect.contracts.wire.resources import ModelRegistration

GOAL_MILLISECONDS = 100
BODY_BYTES = 2**20
MODELS = (InspectionRequest, ModelRegistration, Policy)
PLACES = {
    "items": '{"model":"x","diagnostics":[@]}',
    "layers": '{"model":{"spec":{"input":{"shape":[8]},"layers":[@]}}}',
    "registered layers": '{"spec":{"input":{"shape":[8]},"layers":[@]}}',
    "branches": '{"model":{"spec":{"input":{"shape":[8]},"layers":[{"type":"Concat","branches":[[@]]}]}}}',
    "inputs": '{"model":"x","data":{"inputs":[@]}}',
    "labels": '{"model":"x","labels":{@}}',
    "keys": "{@}",
    "list": "[@]",
}
WORDS = """
model spec input shape layers type Linear Conv2d ReLU out_features kernel_size repeat Sequential Residual Concat
branches init weight bias name xavier_uniform_ labels diagnostics data inputs kind normal loss optimizer sgd adam
betas lr_scales policy rules preset mlp transformer depth tie frozen
"""
KNOWN = (
    '{"type":"Linear","out_features":4}',
    '{"type":"Linear","out_features":4,"init":{"weight":{"name":"xavier_uniform_"}}}',
    '{"type":"Sequential","layers":[{"type":"Linear","out_features":4},{"type":"ReLU"}]}',
    '{"repeat":4000,"layers":[{"type":"Linear","out_features":4}]}',
    '{"repeat":2000,"layers":[{"type":"Sequential","layers":[{"type":"Linear","out_features":4},{"type":"ReLU"}]}]}',
    '{"repeat":4000,"layers":[{"type":"LSTM","hidden_size":8,"num_layers":100}]}',
    '{"type":"Conv2d","out_channels":4,"kernel_size":["a","b","c"]}',
    '"\\u0041\\ud800"', '""', "1", "null", "1e400", "{}", "[]", "[[[]]]", '{"type":"Linaer"}', '" ' + "x" * 1000 + '"',
)  # fmt: skip


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--count", type=int, default=2000)
    arguments.add_argument("--seed", type=int, default=0)
    chosen = arguments.parse_args()
    gc.collect()
    gc.freeze()  # as the API does
    rows = sorted(
        (measure(text, model), name, len(text), model.__name__)
        for name, text, model in [*known(), *made(random.Random(chosen.seed), chosen.count)]
    )
    print(f"{len(rows)} bodies; goal: each under {GOAL_MILLISECONDS} ms of CPU time\n")
    print("| CPU ms | bytes | read as | body |\n|---|---|---|---|")
    for (milliseconds, outcome), name, size, model in rows[-8:]:
        print(f"| {milliseconds:.1f} | {size} | {model} | {name[:60]}: {outcome} |")
    print(f"\nmedian {rows[len(rows) // 2][0][0]:.1f} ms, worst {rows[-1][0][0]:.1f} ms")


def measure(text: bytes, model: Any) -> tuple[float, str]:
    """Return the CPU time in milliseconds, the smaller of two, and what came out."""
    times = []
    for _ in range(2):
        started = process_time()
        try:
            from_request(model, text)
            outcome = "accepted"
        except ProblemError as error:
            outcome = error.code
        times.append(1000 * (process_time() - started))
    return min(times), outcome


def known() -> Iterator[tuple[str, bytes, Any]]:
    """Yield the values that proved expensive, alone and repeated, in every place."""
    for value in KNOWN:
        for place in PLACES:
            for model in MODELS[:2]:
                yield f"{value} in {place}", filled(place, value), model
                yield f"{value} once in {place}", filled(place, value, most=1), model


def made(source: random.Random, count: int) -> Iterator[tuple[str, bytes, Any]]:
    """Yield random bodies."""
    for _ in range(count):
        place = source.choice(list(PLACES))
        value = json.dumps(random_value(source, 4))
        yield f"{value} in {place}", filled(place, value), source.choice(MODELS)


def random_value(source: random.Random, depth: int) -> object:
    """Make a random JSON value of known words."""
    kind = source.randrange(9 if depth else 5)
    if kind >= 7:
        return [random_value(source, depth - 1) for _ in range(source.randrange(4))]
    if kind >= 5:
        return {source.choice(WORDS.split()): random_value(source, depth - 1) for _ in range(source.randrange(5))}
    return (
        source.choice(WORDS.split()),
        source.randrange(-3, 5000),
        source.random(),
        None,
        "x" * source.randrange(2000),
    )[kind]


def filled(place: str, value: str, *, most: int = BODY_BYTES) -> bytes:
    """Repeat a value in a place until the body has 1 MiB or the greatest number of values."""
    is_keyed = place in ("keys", "labels")
    separators = 1 + value.count(",") + value.count("[") + value.count("{")
    fits = min(most, (MAX_VALUES - 8) // separators, (BODY_BYTES - 200) // (len(value) + 10 * is_keyed + 1))
    items = [f'"k{index}":{value}' if is_keyed else value for index in range(max(1, fits))]
    return PLACES[place].replace("@", ",".join(items)).encode()


if __name__ == "__main__":
    main()
