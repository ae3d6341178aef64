"""`ask` and the named tasks. Heavy imports wait until a command runs."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer

from phisight.cli import options
from phisight.errors import ImageError
from phisight.params import LoadOptions, SamplingParams
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
    placed = LoadOptions(device=device, dtype=dtype, num_crops=num_crops)
    params = SamplingParams(max_tokens=max_tokens, temperature=temperature, top_p=top_p, seed=seed)
    _answer(model, placed, [(question, images)], params, as_json=json)


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
        if task.num_images is not None and len(images) != task.num_images:
            raise typer.BadParameter(
                f"{task.name} takes {task.num_images} pictures, not {len(images)}; "
                'for others: phisight ask PICTURES... "QUESTION"'
            )
        groups = [images] if task.num_images else [[image] for image in images]
        placed = LoadOptions(device=device, dtype=dtype, num_crops=num_crops)
        params = SamplingParams(
            max_tokens=max_tokens, temperature=temperature, top_p=top_p, seed=seed
        )
        questions = [(task.question, group) for group in groups]
        _answer(model, placed, questions, params, as_json=json)

    command.__doc__ = f'{task.summary}\n\nAsks: "{task.question}"'
    return command


def _is_file(text: str) -> bool:
    try:
        return Path(text).is_file()
    except (OSError, ValueError):  # a long question is no file name
        return False


def _answer(
    model_name: str | None,
    placed: LoadOptions,
    questions: list[tuple[str, list[str]]],
    params: SamplingParams,
    *,
    as_json: bool,
) -> None:
    from phisight.api import load
    from phisight.cli import output

    for image in (image for _, images in questions for image in images):
        if not Path(image).exists():  # before a model is loaded, which can take a while
            raise ImageError(f"{image}: no such file")
    model = load(model_name, **dataclasses.asdict(placed))
    output.note_model(model)
    for question, images in questions:
        with model.stream(question, images, **dataclasses.asdict(params)) as stream:
            if len(questions) > 1 and not as_json:
                typer.echo(output.printable(f"{images[0]}:"))
            if as_json:
                output.show_json(model, question, images, stream.finish())
            else:
                output.show_stream(stream)
