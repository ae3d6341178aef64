"""`ask` and the named tasks. Heavy imports wait until a command runs."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, Any

import typer

from phisight.cli import options
from phisight.cli.pictures import (
    STDIN,
    Picture,
    find_pictures,
    looks_like_a_picture,
    read_question,
)
from phisight.errors import AnswerError, InputError, PromptError
from phisight.params import EngineConfig, LoadOptions, SamplingParams
from phisight.tasks import Task, table_csv

if TYPE_CHECKING:
    from phisight.answer import Answer

Questions = list[tuple[str, list[Picture]]]

PICTURES_HELP = "Picture files, folders of pictures, patterns, URLs, or - for standard input."


@options.expand(without=options.SERVING)
def ask(
    words: Annotated[
        list[str],
        typer.Argument(
            metavar="[PICTURES]... QUESTION",
            help=f"{PICTURES_HELP} Then a question, or - to read it from standard input.",
        ),
    ],
    model: options.ModelName = None,
    *,
    placed: LoadOptions,
    cache: EngineConfig,
    params: SamplingParams,
    json: options.Json = False,
) -> None:
    """Ask a question about pictures.

    All pictures go into one question, in the order given.
    """
    *pictures, question = words
    if question == STDIN:
        if STDIN in pictures:
            raise PromptError("- can be a picture or the question, not both")
        question = read_question()
    if not question.strip() or looks_like_a_picture(question):
        raise typer.BadParameter(
            f"the last argument is the question, but it is {question!r}; "
            'for example: phisight ask photo.png "What is this?"'
        )
    _answer(
        model,
        options.loading(placed, cache),
        [(question, find_pictures(pictures))],
        params,
        as_json=json,
    )


def task_command(task: Task) -> Callable[..., None]:
    """The command of a named task."""

    def command(
        pictures: Annotated[list[str], typer.Argument(help=PICTURES_HELP)],
        model: options.ModelName = None,
        *,
        placed: LoadOptions,
        cache: EngineConfig,
        params: SamplingParams,
        json: options.Json = False,
    ) -> None:
        _answer(
            model,
            options.loading(placed, cache),
            _task_questions(task, pictures),
            params,
            as_json=json,
        )

    def table_command(
        pictures: Annotated[list[str], typer.Argument(help=PICTURES_HELP)],
        csv: Annotated[bool, typer.Option("--csv", help="Write comma-separated values.")] = False,
        model: options.ModelName = None,
        *,
        placed: LoadOptions,
        cache: EngineConfig,
        params: SamplingParams,
        json: options.Json = False,
    ) -> None:
        if csv and json:
            raise typer.BadParameter("choose one of --csv and --json")
        questions = _task_questions(task, pictures)
        if csv and len(questions) > 1:
            raise typer.BadParameter(f"--csv takes one picture at a time, not {len(questions)}")
        _answer(model, options.loading(placed, cache), questions, params, as_json=json, as_csv=csv)

    chosen = table_command if task.gives_table else command
    chosen.__doc__ = f'{task.summary}\n\nAsks: "{task.question}"'
    return options.expand(without=options.SERVING)(chosen)


def _task_questions(task: Task, words: list[str]) -> Questions:
    pictures = find_pictures(words)
    if task.num_images is None:
        return [(task.question, [picture]) for picture in pictures]
    if len(pictures) != task.num_images:
        raise typer.BadParameter(
            f"{task.name} takes {task.num_images} pictures, not {len(pictures)}; "
            'for others: phisight ask PICTURES... "QUESTION"'
        )
    return [(task.question, pictures)]


def _answer(
    model_name: str | None,
    loading: dict[str, Any],
    questions: Questions,
    params: SamplingParams,
    *,
    as_json: bool,
    as_csv: bool = False,
) -> None:
    """Answer questions in turn; one that fails is reported, and the others go on."""
    if params.logprobs is not None and not as_json:
        raise typer.BadParameter("--logprobs is for --json: plain answers do not show them")
    from phisight.api import load
    from phisight.cli import output

    model = load(model_name, **loading)
    output.note_model(model)
    if not any(pictures for _, pictures in questions):
        output.note('no picture was given; with one: phisight ask photo.png "QUESTION"')
    failed: InputError | AnswerError | None = None
    for question, pictures in questions:
        names = [picture.name for picture in pictures]
        sources = [picture.source for picture in pictures]
        try:
            with model.stream(question, sources, **dataclasses.asdict(params)) as stream:
                if len(questions) > 1 and not as_json:
                    typer.echo(output.one_line(f"{names[0]}:"))
                if as_json:
                    output.show_json(model, question, names, output.finished(stream))
                elif as_csv:
                    _show_csv(output.finished(stream))
                else:
                    output.show_stream(stream)
        except (InputError, AnswerError) as error:
            if len(questions) == 1:
                raise
            failed = error
            output.show_error(error, names, as_json=as_json)
    if failed is not None:
        raise typer.Exit(output.exit_code(failed))


def _show_csv(answer: Answer) -> None:
    from phisight.cli import output

    typer.echo(output.printable(table_csv(answer.text)), nl=False)
    others = [line for line in answer.text.splitlines() if line.strip() and "|" not in line]
    if others:
        output.note(f"{len(others)} lines of the answer are no part of the table, and left out")
    output.note_costs(answer)
