"""Async tests without a plugin: each test runs in an event loop of its own."""

import asyncio
import functools
import inspect
from collections.abc import Callable, Coroutine
from typing import Any, ParamSpec

import pytest
import uvloop

P = ParamSpec("P")


def async_test(test: Callable[P, Coroutine[Any, Any, None]]) -> Callable[P, None]:
    """Turn a coroutine function into a test that pytest can call.

    Fixtures reach it by name as usual, since the wrapper keeps the signature. An async generator or task left
    behind is finished by `asyncio.run`, and its warning fails the test.
    """

    @functools.wraps(test)
    def run(*args: P.args, **kwargs: P.kwargs) -> None:
        asyncio.run(test(*args, **kwargs))

    return run


def async_test_on_both_loops(test: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., None]:
    """As `async_test`, once on asyncio's own event loop and once on uvloop's."""

    def run(*args: object, new_loop: Callable[[], asyncio.AbstractEventLoop], **kwargs: object) -> None:
        with asyncio.Runner(loop_factory=new_loop) as runner:
            runner.run(test(*args, **kwargs))

    functools.update_wrapper(run, test)
    shown = inspect.signature(test)
    added = inspect.Parameter("new_loop", inspect.Parameter.KEYWORD_ONLY)
    run.__signature__ = shown.replace(parameters=[*shown.parameters.values(), added])  # type: ignore[attr-defined]
    loops = [asyncio.new_event_loop, uvloop.new_event_loop]
    return pytest.mark.parametrize("new_loop", loops, ids=["asyncio", "uvloop"])(run)
