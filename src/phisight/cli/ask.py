"""`ask` and the named tasks. Heavy imports wait until a command runs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer

from phisight.cli import options
from phisight.params import SamplingParams
from phisight.tasks import Task

_DEFAULTS = SamplingParams()


def ask(
    words: Annotated[
        list[str], typer.Argument(metavar="[IMAGES]... QUESTION", help="Pictures, then a question.")
    ],
    model: options.ModelName = None,
    device: options.Device = None,
    dtype: options.Dtype = None,
    num_crops: options.NumCrops = None,
    max_tokens: options.MaxTokens = _DEFAULTS.max_tokens,
    temperature: options.Temperature = _DEFAULTS.temperature,
    top_p: options.TopP = _DEFAULTS.top_p,
    seed: options.Seed = None,
    json: options.Json = False,
) -> None:
    """Ask a question about pictures.

    All pictures go into one question, in the order given.
    """
    *images, question = words
    if not question.strip() or _is_file(question):
        raise typer.BadParameter(
            f"the last argument is the question, but it is {question!r}; "
            'for example: phisight ask photo.png "What is this?"'
        )
    params = SamplingParams(max_tokens, temperature, top_p, seed)
    _answer(model, device, dtype, num_crops, [(question, images)], params, json)


def task_command(task: Task) -> Callable[..., None]:
    """The command of a named task."""

    def command(
        images: Annotated[list[str], typer.Argument(help="Picture files.")],
        model: options.ModelName = None,
        device: options.Device = None,
        dtype: options.Dtype = None,
        num_crops: options.NumCrops = None,
        max_tokens: options.MaxTokens = _DEFAULTS.max_tokens,
        temperature: options.Temperature = _DEFAULTS.temperature,
        top_p: options.TopP = _DEFAULTS.top_p,
        seed: options.Seed = None,
        json: options.Json = False,
    ) -> None:
        if len(images) < task.min_images:
            raise typer.BadParameter(f"{task.name} needs {task.min_images} pictures or more")
        groups = [images] if task.together else [[image] for image in images]
        params = SamplingParams(max_tokens, temperature, top_p, seed)
        questions = [(task.question, group) for group in groups]
        _answer(model, device, dtype, num_crops, questions, params, json)

    command.__doc__ = f'{task.summary}\n\nAsks: "{task.question}"'
    return command


def _is_file(text: str) -> bool:
    try:
        return Path(text).is_file()
    except (OSError, ValueError):  # a long question is no file name
        return False


def _answer(
    model_name: str | None,
    device: str | None,
    dtype: str | None,
    num_crops: int | None,
    questions: list[tuple[str, list[str]]],
    params: SamplingParams,
    as_json: bool,
) -> None:
    from phisight.api import load
    from phisight.cli import output

    model = load(model_name, device=device, dtype=dtype, num_crops=num_crops)
    output.note_model(model)
    for question, images in questions:
        if len(questions) > 1 and not as_json:
            typer.echo(f"{images[0]}:")
        with model.stream(
            question,
            images,
            max_tokens=params.max_tokens,
            temperature=params.temperature,
            top_p=params.top_p,
            seed=params.seed,
        ) as stream:
            if as_json:
                output.show_json(model, question, images, stream.finish())
            else:
                output.show_stream(stream)
